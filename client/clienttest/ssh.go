package clienttest

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Hosts is a directory that says which hosts SSH reaches: a file named as a host holds the address of its system bus.
// SSH writes the command lines that it was called with to the file "calls" in it.
const Hosts = "LEFT4_TEST_HOSTS"

// SSH is an ssh(1) for tests: a program named ssh, first in PATH, hands its arguments to it and exits with what it
// returns. It knows systemd-stdio-bridge as the program to run, and some hosts that are as they are called.
func SSH(args []string) int {
	hosts := os.Getenv(Hosts)
	calls, err := os.OpenFile(filepath.Join(hosts, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 255
	}
	fmt.Fprintln(calls, strings.Join(args, " "))
	calls.Close()
	at := slices.Index(args, "--")
	if at < 0 || at+1 >= len(args) {
		fmt.Fprintln(os.Stderr, "usage: ssh [options] -- destination command")
		return 255
	}
	host, command := args[at+1], strings.Join(args[at+2:], " ")
	host = host[strings.LastIndexByte(host, '@')+1:]
	switch host {
	case "silent.test": // it is there and says nothing; who waits for that reads from "began", if it is a FIFO
		if began, err := os.OpenFile(filepath.Join(hosts, "began"), os.O_WRONLY, 0); err == nil {
			began.Close()
		}
		io.Copy(io.Discard, os.Stdin)
		return 0
	case "stubborn.test": // nor does it end
		signal.Ignore(syscall.SIGTERM)
		select {}
	case "chatty.test":
		fmt.Println("Welcome!")
		io.Copy(io.Discard, os.Stdin)
		return 0
	case "endless.test": // one line without an end
		for {
			if _, err := io.WriteString(os.Stdout, strings.Repeat("A", 4096)); err != nil {
				return 1
			}
		}
	case "closed.test":
		fmt.Println("This account is currently not available.")
		return 1
	case "bare.test":
		fmt.Fprintln(os.Stderr, "bash: line 1: systemd-stdio-bridge: command not found")
		return 127
	case "dead.test": // there is no system bus
		return 1
	case "lingering.test": // as with ControlPersist, something stays that holds standard error
		stay := exec.Command("sleep", "600")
		stay.Stderr = os.Stderr
		if err := stay.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.WriteFile(filepath.Join(hosts, "lingering"), fmt.Append(nil, stay.Process.Pid), 0o644)
		fmt.Fprintf(os.Stderr, "Permission denied")
		return 255
	}
	address, err := os.ReadFile(filepath.Join(hosts, host))
	if err != nil {
		fmt.Fprintf(os.Stderr, "ssh: connect to host %s port 22: Connection refused\r\n", host)
		return 255
	}
	if command != "systemd-stdio-bridge" {
		sh := exec.Command("sh", "-c", command)
		sh.Stdin, sh.Stdout, sh.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := sh.Run(); err != nil {
			return max(sh.ProcessState.ExitCode(), 1)
		}
		return 0
	}
	fmt.Fprintf(os.Stderr, "Warning: Permanently added '%s' (ED25519) to the list of known hosts.\r\n", host)
	if program, err := exec.LookPath("systemd-stdio-bridge"); err == nil {
		err = syscall.Exec(program, []string{program, "--bus-path=" + string(address)}, os.Environ())
		fmt.Fprintln(os.Stderr, err)
		return 255
	}
	return join(string(address))
}

// join is what systemd-stdio-bridge does, as far as nobody looks closely.
func join(address string) int {
	address, _, _ = strings.Cut(address, ",")
	path := strings.NewReplacer("unix:path=", "", "unix:abstract=", "@").Replace(address)
	conn, err := net.Dial("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		io.Copy(conn, os.Stdin)
		conn.Close()
	}()
	io.Copy(os.Stdout, conn)
	return 0
}
