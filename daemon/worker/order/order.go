// Package order is what left4d asks of a worker beyond its command: a JSON text on the worker's standard input, and for a
// Workshop the JSON text that it leaves in its directory. How left4d writes an order and a worker reads it, and the other
// way round.
package order

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

const (
	// Max is how long a text may be, in bytes: 10 000 items with their titles fit.
	Max = 8 << 20
	// ResultName is the file in the working directory of a worker that builds a workshop overlay.
	ResultName = "result.json"
	// Spoiled is the exit status of a worker that another try with the same files in the working directory would fail, too.
	Spoiled = 3
)

// Install has a worker install or update the game in its working directory, which holds the files of the game so far.
type Install struct {
	// Home is a writable directory that stays: SteamCMD keeps itself there.
	Home string
	// SteamCMD and DepotDownloader are absolute paths, "" = there is none.
	SteamCMD, DepotDownloader string
	// Check only finds out which build there is.
	Check bool
	// Build is the build that is installed, "" = none or not known. An install that finds that this is the newest one, and is
	// not to Validate, changes nothing.
	Build    string
	Validate bool
	// Tries is how often it is tried in all while what it fails for may pass, 1 to 100, RetryDelay the pause after the first, Silence how long SteamCMD
	// may say nothing before it counts as hung.
	Tries               int
	RetryDelay, Silence time.Duration
}

// Workshop has a worker fetch what is not in the cache into its working directory, one file each, named by FileName.
type Workshop struct {
	// Items are decimal ids of items and of collections, which may hold others.
	Items []string
	// Collections are those that were found within others last time: to ask for all at once saves a request each.
	Collections []string
	// Cached are the files that need not be fetched.
	Cached []File
	API    string // base URL without a slash at its end
	Proxy  string // URL, "" = none
	// Private allows addresses of private networks, and this machine, beyond those of API and Proxy.
	Private  bool
	Parallel int // downloads at a time, 1 to 16
}

// File is one state of one item.
type File struct {
	ID      string // decimal
	Updated int64  // time_updated, in seconds since the epoch
	Size    int64  // bytes
}

// FileName is the file's name in the cache.
func (f File) FileName() string { return fmt.Sprintf("%s-%d.vpk", f.ID, f.Updated) }

// Item is what has become of one item.
type Item struct {
	File
	Title   string
	Name    string // of the file as its author called it, without a directory; "" = not known
	Missing string // why it is not to be had; "" = it is in the cache or in the working directory
}

// WorkshopResult is the content of ResultName: every item once, in the order in which they were found.
type WorkshopResult struct {
	Items list[Item]
	// Collections are the ids of all that is a collection, those that the order has too.
	Collections list[string]
	// Requests and Fetched are how many times the API was asked and how many files were downloaded.
	Requests, Fetched int
}

// Script has a worker run a script of bash in its working directory.
type Script struct {
	Text string
	// Base is a directory whose files the script finds, as copies; "" = it begins with none.
	Base string
	// Private allows addresses of private networks, and this machine.
	Private bool
}

// Maps has a worker list the maps in layers, which it finds under these absolute paths, highest first. It answers with a MapsResult.
type Maps struct {
	Layers []string
	Most   int // maps in the answer
}

// Map is one map that a server could be started with.
type Map struct {
	Name     string   // as +map has it
	Campaign string   // the title of it; "" = none names the map
	Modes    []string // that the campaign has it for
	Layer    int      // in Maps.Layers
	File     string   // that brings it: a mission file, a VPK file, or the map itself
}

// Unread is a file that should tell of maps and could not be read.
type Unread struct {
	Layer  int
	File   string
	Reason string
}

// MapsResult is what there is of maps: those of a campaign together, in its order, then those of none.
type MapsResult struct {
	Maps   list[Map]
	Unread list[Unread]
	More   bool // there are more maps than were asked for
}

// list is read up to listMax elements: an empty one takes more memory than its text by far.
type list[T any] []T

const listMax = 20_000

func (l *list[T]) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if begin, err := d.Token(); err != nil || begin != json.Delim('[') {
		return err // null is an empty one
	}
	*l = nil
	for d.More() && len(*l) < listMax {
		var element T
		if err := d.Decode(&element); err != nil {
			return err
		}
		*l = append(*l, element)
	}
	return nil
}

// Read reads one JSON text into v, which knows all of it.
func Read(in io.Reader, v any) error {
	text, err := io.ReadAll(io.LimitReader(in, Max+1))
	switch {
	case err != nil:
		return err
	case len(text) > Max:
		return fmt.Errorf("it has more than %d bytes", Max)
	case !utf8.Valid(text):
		return errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows its end")
	}
	return nil
}
