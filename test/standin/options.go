package main

import (
	"fmt"
	"strconv"
	"strings"
)

// options is what the command line says. Unknown options are ignored, as the engine does.
type options struct {
	game       string // directory of the game below the working directory
	port       int
	ip         string // IPv4 address to listen on, "" for all
	strictPort bool   // fail instead of taking the next free port
	maxPlayers int
	pidfile    string
	mapArgs    []string // map and game mode
	sets       []string // the console commands that the command line gives, "name value"
	writeTree  string   // stand-in only: write a game tree there and end
}

const (
	defaultPort       = 27015
	defaultMaxPlayers = 8
)

// parseOptions reads arguments as the engine does: -option takes the next word if it needs one; +command takes all
// words up to the next option or command. -port goes before +hostport, -ip before +ip, else the last one counts. A
// number that is none is taken as if it were not given.
func parseOptions(args []string) options {
	o := options{game: "left4dead2", maxPlayers: defaultMaxPlayers}
	hostport, hostip := 0, ""
	for i := 0; i < len(args); i++ {
		word := args[i]
		value := ""
		if i+1 < len(args) {
			value = args[i+1]
		}
		switch {
		case word == "-game":
			o.game = value
			i++
		case word == "-port":
			o.port = portNumber(value)
			i++
		case word == "-ip":
			o.ip = value
			i++
		case word == "-strictportbind":
			o.strictPort = true
		case word == "-maxplayers":
			if n, err := strconv.Atoi(value); err == nil && n > 0 && n < 256 {
				o.maxPlayers = n
			}
			i++
		case word == "-pidfile":
			o.pidfile = value
			i++
		case word == "-write-tree":
			o.writeTree = value
			i++
		case isCommand(word):
			var values []string
			for i+1 < len(args) && !isCommand(args[i+1]) && !isOption(args[i+1]) {
				i++
				values = append(values, args[i])
			}
			switch name := strings.ToLower(word[1:]); name {
			case "map":
				o.mapArgs = values
			case "hostport":
				if len(values) > 0 {
					hostport = portNumber(values[0])
				}
			case "ip":
				if len(values) > 0 {
					hostip = values[0]
				}
			default:
				o.sets = append(o.sets, fmt.Sprintf("%s %s", name, strings.Join(values, " ")))
			}
		}
	}
	if o.port == 0 {
		o.port = hostport
	}
	if o.port == 0 {
		o.port = defaultPort
	}
	if o.ip == "" {
		o.ip = hostip
	}
	return o
}

func isCommand(word string) bool { return len(word) > 1 && word[0] == '+' }

// isOption leaves negative numbers to the command before them.
func isOption(word string) bool {
	return len(word) > 1 && word[0] == '-' && (word[1] < '0' || word[1] > '9')
}

func portNumber(s string) int {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}
