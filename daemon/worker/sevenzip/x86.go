package sevenzip

import (
	"encoding/binary"
	"io"
	"math/bits"
)

// x86 turns the absolute targets of calls and jumps of x86 programs, which repeat and so pack well, back into the relative ones that
// the processor knows.
//
// Whether four bytes behind an opcode (E8, E9) are a target is a guess that depends on their highest byte and on which of
// the three bytes before the opcode looked like one and was left alone: those are the bits of mask, the nearest lowest.
type x86 struct {
	in   io.Reader
	buf  []byte // from at on what comes next, up to done converted
	at   int
	done int
	end  error // what the input has ended with
	pos  uint32
	mask uint32
}

func newX86(in io.Reader) *x86 { return &x86{in: in, buf: make([]byte, 0, 1<<16)} }

func (x *x86) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for x.at == x.done {
		if x.end != nil {
			if x.done == len(x.buf) {
				return 0, x.end
			}
			x.done = len(x.buf) // too short for a target
			break
		}
		rest := copy(x.buf[:cap(x.buf)], x.buf[x.at:])
		x.at, x.done = 0, 0
		var n int
		n, x.end = x.in.Read(x.buf[rest:cap(x.buf)])
		x.buf = x.buf[:rest+n]
		x.convert()
	}
	n := copy(p, x.buf[x.at:x.done])
	x.at += n
	return n, nil
}

// targetLike tells what the highest byte of a near target is.
func targetLike(b byte) bool { return b == 0 || b == 0xff }

// convert goes on as far as an opcode could still have its four bytes in the buffer.
func (x *x86) convert() {
	i := 0
	for ; i+4 < len(x.buf); i++ {
		if x.buf[i]&0xfe != 0xe8 {
			x.mask = x.mask << 1 & 7
			continue
		}
		if !x.isTarget(x.buf[i+1 : i+5]) {
			x.mask = (x.mask<<1 | 1) & 7
			continue
		}
		field := x.buf[i+1 : i+5]
		binary.LittleEndian.PutUint32(field, x.relative(binary.LittleEndian.Uint32(field), x.pos+uint32(i)+5))
		x.mask = 0
		i += 4
	}
	x.done = min(i, len(x.buf))
	x.pos += uint32(x.done)
}

func (x *x86) isTarget(field []byte) bool {
	if x.mask != 0 && (bits.OnesCount32(x.mask) > 1 || targetLike(field[3-bits.Len32(x.mask)])) {
		return false
	}
	return targetLike(field[3])
}

// relative is the target as the processor knows it; next is the address behind the instruction.
func (x *x86) relative(target, next uint32) uint32 {
	for {
		relative := target - next
		if x.mask != 0 {
			if shift := 24 - 8*bits.Len32(x.mask); targetLike(byte(relative >> shift)) {
				target = relative ^ (1<<(shift+8) - 1)
				continue
			}
		}
		// 25 bits with a sign.
		return uint32(int32(relative<<7) >> 7)
	}
}
