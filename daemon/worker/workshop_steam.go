package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
)

const (
	maxBatch   = 100             // ids of one request
	maxAnswer  = 16 << 20        // bytes of one answer: 100 descriptions of 8000 characters each fit many times
	maxTries   = 6               // without any progress
	maxPause   = time.Minute     // between two tries
	maxAfter   = 5 * time.Minute // that a server may wish for
	apiTimeout = time.Minute     // for one request
)

// Two methods of Steam's Web API need no key, https://partner.steamgames.com/doc/webapi/ISteamRemoteStorage:
// GetCollectionDetails tells what a collection holds, and has result 9 for what is none; GetPublishedFileDetails tells of an item
// what it is for, and where its file lies.

// number is written as a number or as a string, depending on the field and on the year.
type number int64

func (n *number) UnmarshalJSON(text []byte) error {
	digits := strings.Trim(string(text), `"`)
	v, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return fmt.Errorf("%.40q is no number", digits)
	}
	*n = number(v)
	return nil
}

// truth is written as true or as 1.
type truth bool

func (b *truth) UnmarshalJSON(text []byte) error {
	switch string(text) {
	case "true", "1":
		*b = true
	case "false", "0", "null":
	default:
		return fmt.Errorf("%.40q is neither true nor false", text)
	}
	return nil
}

type details struct {
	Result     number `json:"result"`
	App        number `json:"consumer_app_id"`
	Name       string `json:"filename"`
	Size       number `json:"file_size"`
	URL        string `json:"file_url"`
	Title      string `json:"title"`
	Updated    number `json:"time_updated"`
	Visibility number `json:"visibility"`
	Banned     truth  `json:"banned"`

	bad error // it could not be read
}

type collection struct {
	Result   number `json:"result"`
	Children []struct {
		ID   string `json:"publishedfileid"`
		Kind number `json:"filetype"`
	} `json:"children"`
}

// What a collection may hold, EWorkshopFileType of Steamworks.
const (
	kindItem       = 0
	kindCollection = 2
)

// readAnswer returns, of each id that was asked for, what the answer says of it under key.
func readAnswer(text []byte, key string, asked []string) (map[string]json.RawMessage, error) {
	var answer struct {
		Response map[string]json.RawMessage `json:"response"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("the answer cannot be understood: %w", err)
	}
	var rows []json.RawMessage
	if answer.Response[key] == nil {
		return nil, fmt.Errorf("the answer has no %s", key)
	}
	if err := json.Unmarshal(answer.Response[key], &rows); err != nil {
		return nil, fmt.Errorf("the answer cannot be understood: %w", err)
	}
	all := map[string]json.RawMessage{}
	for _, row := range rows {
		var named struct {
			ID string `json:"publishedfileid"`
		}
		// What cannot be read at all is as good as not there.
		if json.Unmarshal(row, &named) == nil && all[named.ID] == nil && slices.Contains(asked, named.ID) {
			all[named.ID] = row
		}
	}
	return all, nil
}

func readDetails(text []byte, asked []string) (map[string]*details, error) {
	rows, err := readAnswer(text, "publishedfiledetails", asked)
	if err != nil {
		return nil, err
	}
	all := map[string]*details{}
	for id, row := range rows {
		d := &details{}
		d.bad = json.Unmarshal(row, d)
		all[id] = d
	}
	return all, nil
}

func readCollections(text []byte, asked []string) (map[string]collection, error) {
	rows, err := readAnswer(text, "collectiondetails", asked)
	if err != nil {
		return nil, err
	}
	all := map[string]collection{}
	for id, row := range rows {
		var c collection
		// Half a collection would be taken for a whole one.
		if err := json.Unmarshal(row, &c); err != nil {
			return nil, fmt.Errorf("what the answer says about collection %s cannot be understood: %w", id, err)
		}
		for _, child := range c.Children {
			if !isID(child.ID) {
				return nil, fmt.Errorf("the answer has %q in collection %s, which is no id", short(child.ID), id)
			}
		}
		all[id] = c
	}
	return all, nil
}

func (s *workshop) askDetails(ctx context.Context, ids []string) (all map[string]*details, err error) {
	err = s.ask(ctx, "GetPublishedFileDetails", "itemcount", ids, func(text []byte) error {
		all, err = readDetails(text, ids)
		return err
	})
	return all, err
}

func (s *workshop) askCollections(ctx context.Context, ids []string) (all map[string]collection, err error) {
	err = s.ask(ctx, "GetCollectionDetails", "collectioncount", ids, func(text []byte) error {
		all, err = readCollections(text, ids)
		return err
	})
	return all, err
}

// collections finds out which ids are collections and what they hold, and returns the ids of all items, each once.
func (s *workshop) collections(ctx context.Context) ([]string, error) {
	s.empty = map[string]bool{}
	known := map[string]collection{}
	todo := unique(slices.Concat(s.order.Items, s.order.Collections))
	for depth := 0; len(todo) > 0; depth++ {
		if depth > maxDepth {
			for _, id := range todo {
				s.miss(order.Item{File: order.File{ID: id}}, "the collection lies within more than %d others", maxDepth)
			}
			break
		}
		var next []string
		for batch := range slices.Chunk(todo, maxBatch) {
			s.step(-1, "asking for collections")
			all, err := s.askCollections(ctx, batch)
			if err != nil {
				return nil, fmt.Errorf("cannot ask Steam: %w", err)
			}
			for _, id := range batch {
				c := all[id]
				known[id] = c
				for _, child := range c.Children {
					if child.Kind == kindCollection {
						next = append(next, child.ID)
					}
				}
			}
		}
		todo = slices.DeleteFunc(unique(next), func(id string) bool { _, seen := known[id]; return seen })
		if len(known)+len(todo) > maxItems {
			return nil, fmt.Errorf("the collections hold more than %d others", maxItems)
		}
	}
	return s.flatten(known)
}

// flatten puts the items in the order in which people find them: a collection's where the collection stands.
func (s *workshop) flatten(known map[string]collection) ([]string, error) {
	var ids []string
	seen := map[string]bool{}
	for _, item := range s.result.Items {
		seen[item.ID] = true // it is told already why it is not to be had
	}
	var put func(id string, kind number)
	put = func(id string, kind number) {
		if seen[id] || len(ids)+len(s.result.Items) > maxItems {
			return
		}
		seen[id] = true
		c, asked := known[id]
		switch {
		case asked && c.Result == 1 && len(c.Children) > 0:
			s.result.Collections = append(s.result.Collections, id)
			for _, child := range c.Children {
				put(child.ID, child.Kind)
			}
		case kind == kindItem || kind == kindCollection:
			// A collection that was deleted is told as an item that was.
			s.empty[id] = asked && c.Result == 1
			ids = append(ids, id)
		default:
			s.miss(order.Item{File: order.File{ID: id}}, "it is no item of a game, but of type %d", int64(kind))
		}
	}
	for _, id := range s.order.Items {
		put(id, kindItem)
	}
	if len(ids)+len(s.result.Items) > maxItems {
		return nil, fmt.Errorf("the collections hold more than %d items", maxItems)
	}
	return ids, nil
}

// unique is each once, in their order.
func unique(ids []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		was := seen[id]
		seen[id] = true
		return was
	})
}

// ask calls a method of the API until read can read its answer.
func (s *workshop) ask(ctx context.Context, method, count string, ids []string, read func([]byte) error) error {
	form := url.Values{count: {strconv.Itoa(len(ids))}}
	for i, id := range ids {
		form.Set(fmt.Sprintf("publishedfileids[%d]", i), id)
	}
	return s.retry(ctx, func(words string) { s.step(-1, "%s", words) }, func(*patience) error {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.order.API+"/ISteamRemoteStorage/"+method+"/v1/", strings.NewReader(form.Encode()))
		if err != nil {
			return backoff.Permanent(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		s.result.Requests++
		resp, err := s.net.api.Do(req)
		if err != nil {
			return netError(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return statusError(resp)
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
		if err != nil {
			return fmt.Errorf("the answer was cut off: %w", netError(err))
		}
		if len(text) > maxAnswer {
			return backoff.Permanent(fmt.Errorf("the answer has more than %d bytes", maxAnswer))
		}
		return read(text)
	})
}

// patience is how often a thing is tried again: each progress gives it all back.
type patience struct {
	*backoff.ExponentialBackOff
	left int
}

func (p *patience) NextBackOff() time.Duration {
	if p.left <= 1 {
		return backoff.Stop
	}
	p.left--
	return p.ExponentialBackOff.NextBackOff()
}

// progressed is for a try that came further than any before it.
func (p *patience) progressed() {
	p.left = maxTries
	p.Reset()
}

// retry does a thing until it is done, fails for good or nothing has moved for maxTries. The end of ctx ends a pause.
func (s *workshop) retry(ctx context.Context, tell func(string), try func(*patience) error) error {
	p := &patience{backoff.NewExponentialBackOff(), maxTries}
	p.InitialInterval, p.MaxInterval, p.Multiplier = s.pause, maxPause, 2
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := try(p)
		if err != nil && ctx.Err() != nil {
			return struct{}{}, backoff.Permanent(context.Cause(ctx))
		}
		return struct{}{}, err
	}, backoff.WithBackOff(p), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, pause time.Duration) {
		fmt.Fprintf(s.log, "trying again in %v: %s\n", pause.Round(time.Millisecond), status.Line(err.Error(), maxReason))
		tell(fmt.Sprintf("trying again in %v: %v", max(pause.Round(time.Second), time.Second), err))
	}))
	return err
}

// laterError is an answer that says when to come again.
type laterError struct {
	text  string
	after *backoff.RetryAfterError
}

func (e *laterError) Error() string { return e.text }
func (e *laterError) Unwrap() error { return e.after }

// statusError is what an answer's status means.
func statusError(resp *http.Response) error {
	text := resp.Request.URL.Host + " answers " + status.Line(resp.Status, 100)
	passes := resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout
	if !passes {
		return backoff.Permanent(errors.New(text))
	}
	after := retryAfter(resp.Header.Get("Retry-After"), time.Now())
	switch {
	case after > maxAfter:
		return backoff.Permanent(fmt.Errorf("%s, and wants to be asked again only in %v", text, after.Round(time.Second)))
	case after > 0:
		return &laterError{text, &backoff.RetryAfterError{Duration: after}}
	}
	return errors.New(text)
}

// retryAfter reads the header of that name, RFC 9110, 10.2.3; 0 = it says nothing.
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
