package dbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"left4.me/left4/dbus/names"
)

// socketPair is a socket that a test writes and an input that reads it.
func socketPair(t *testing.T) (*net.UnixConn, *input) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	in := newInput(ends[1])
	return ends[0], &in
}

// FuzzInput sends messages as a plan says, a byte each: how large, with how many descriptors, in one piece or in two, and
// whether it is taken or passed over. Each comes whole, with its own descriptors and no other's, and nothing stays open.
func FuzzInput(f *testing.F) {
	f.Add([]byte{0, 0, 0, 8, 0, 40, 32, 48, 104, 255, 33, 34, 35, 36, 37, 38, 39})
	f.Add([]byte{63, 63, 63, 127, 126, 62, 7, 6, 5, 4, 3, 2, 1, 0, 191, 9, 41})
	f.Add([]byte{32, 40, 32, 56, 32, 48, 32, 8, 16, 24, 40, 40, 40, 46, 14, 47, 15, 103, 103})
	sizes := []int{0, 8, 64, 3000, 70_000, 140_000, 300_000, maxCall + 8}
	f.Fuzz(func(t *testing.T, plan []byte) {
		plan = plan[:min(len(plan), 40)]
		out, in := socketPair(t)
		var kept []*os.File // those that the receiver's are compared with
		defer func() {
			for _, f := range kept {
				f.Close()
			}
		}()
		inode := func(fd int) uint64 {
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				t.Fatal(err)
			}
			return st.Ino
		}
		raws, rights, inodes := make([][]byte, len(plan)), make([][]int, len(plan)), make([][]uint64, len(plan))
		for i, b := range plan {
			m := sample()
			m.Body = nil
			delete(m.Headers, dbus.FieldSignature)
			n := int(b >> 3 & 3)
			m.Headers[dbus.FieldUnixFDs] = dbus.MakeVariant(uint32(n))
			raws[i] = append(encoded(t, m, binary.LittleEndian), bytes.Repeat([]byte{byte(i)}, sizes[b&7])...)
			binary.LittleEndian.PutUint32(raws[i][4:], uint32(sizes[b&7]))
			binary.LittleEndian.PutUint32(raws[i][8:], uint32(i+1))
			for range n {
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				kept = append(kept, r, w)
				rights[i] = append(rights[i], int(r.Fd()))
				inodes[i] = append(inodes[i], inode(int(r.Fd())))
			}
		}
		before := descriptors(t)
		sent := make(chan error, 1)
		go func() {
			defer out.CloseWrite()
			for i, b := range plan {
				first := raws[i]
				if b&64 != 0 {
					first = first[:20]
				}
				var oob []byte
				if len(rights[i]) > 0 {
					oob = unix.UnixRights(rights[i]...)
				}
				n, _, err := out.WriteMsgUnix(first, oob, nil)
				if err == nil {
					_, err = out.Write(raws[i][n:])
				}
				if err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for i, b := range plan {
			m, err := in.next()
			if err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
			if m.serial != uint32(i+1) || m.member != "GetJob" || m.size != len(raws[i]) {
				t.Fatalf("message %d is %+v", i, m)
			}
			if b&32 == 0 {
				continue
			}
			if err := in.take(&m); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
			if sizes[b&7] > maxCall {
				if m.raw != nil || len(m.fds) > 0 {
					t.Errorf("message %d is too large, and was taken", i)
				}
				continue
			}
			if !bytes.Equal(m.raw, raws[i]) || m.lost || len(m.fds) != len(inodes[i]) {
				t.Fatalf("message %d has %d bytes, %d descriptors, lost %t", i, len(m.raw), len(m.fds), m.lost)
			}
			for n, fd := range m.fds {
				if inode(fd) != inodes[i][n] {
					t.Errorf("message %d has a descriptor of another", i)
				}
			}
			m.closeFDs()
		}
		if _, err := in.next(); !errors.Is(err, io.EOF) {
			t.Errorf("behind the last message: %v", err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		in.close()
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}

// A flood costs left4d no memory: what is refused leaves nothing behind, and is read many messages at a time.
func TestAFloodIsReadInLargePieces(t *testing.T) {
	out, in := socketPair(t)
	in.known = words{"me.left4.Manager": "me.left4.Manager", "GetJob": "GetJob", "su": "su"}
	raw := encoded(t, sample(), binary.LittleEndian)
	many := make([]byte, 0, 100*len(raw))
	for range 100 {
		many = append(many, raw...)
	}
	go func() {
		for {
			if _, err := out.Write(many); err != nil {
				return
			}
		}
	}()
	if n := testing.AllocsPerRun(2000, func() {
		if _, err := in.next(); err != nil {
			t.Fatal(err)
		}
	}); n > 3 { // the path, the sender, and now and then a read
		t.Errorf("a message that nobody takes costs %v allocations", n)
	}
}

// Whoever has as many answers as he may have that the bus has not taken waits with the next, and is in nobody else's way.
func TestReadsWaitForTheirAnswersToLeave(t *testing.T) {
	b := startBus(t)
	s := b.server
	for range maxRootReads {
		if err := s.reads.take(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	answered := make(chan error, 1)
	go func() {
		_, err := b.call(names.Root, "org.freedesktop.DBus.Peer.Ping")
		answered <- err
	}()
	if err := s.reads.take(t.Context(), 1000); err != nil {
		t.Error(err)
	}
	late, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.reads.take(late, 1000); err == nil {
		t.Error("a user had two answers under way")
	}
	s.reads.give(1000)
	b.must(names.Root, "me.left4.Manager.CreateInstance", "a", variants{}, variants{})
	select {
	case err := <-answered:
		t.Fatalf("a fifth was answered: %v", err)
	default:
	}
	for range maxRootReads {
		s.reads.give(0)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	b.answered()
	s.conn.flush(t.Context())
	s.reads.mu.Lock()
	defer s.reads.mu.Unlock()
	if len(s.reads.users) != 0 {
		t.Errorf("%d users have turns of reading, and nobody reads", len(s.reads.users))
	}
}

// What others wait for is not held up by the refusals of a flood, and each refusal comes all the same.
func TestRefusalsLeaveLast(t *testing.T) {
	out, other := sockets(t)
	refusal := func(n uint32) outgoing {
		m, err := encode(answer(header{sender: ":1.5", serial: n}, nil, errCalls))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	const many = 3 * lastBatch
	for n := range uint32(many) {
		out.sendLast(refusal(n + 1))
	}
	if _, err := out.send(answer(header{sender: ":1.6", serial: 1000}, nil, nil)); err != nil {
		t.Fatal(err)
	}
	go out.write()
	for n := range uint32(many + 1) {
		m, err := received(other)
		if err != nil {
			t.Fatal(err)
		}
		if want := [...]uint32{1000, n}[min(n, 1)]; m.reply != want {
			t.Errorf("message %d answers %d, not %d", n, m.reply, want)
		}
	}
}
