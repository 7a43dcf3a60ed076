package dbus

import (
	"encoding/binary"
	"errors"
)

// Bounds of the arguments of a call. A definition has 1000 lines and 256 arguments, and a list of paths fills a message; the
// deepest that anybody takes is a limit's bytes, in a{sv} in a{sv}.
const (
	maxValues = 1 << 16
	maxDepth  = 8
)

var (
	errDeep   = errors.New("they are too deep")
	errMany   = errors.New("they are too many")
	errBroken = errors.New("they are cut off")
)

// scan walks over the arguments of a message without making anything of them: decoded, a body of variants in variants, or of
// structs in structs, takes some hundred times its room. What a bus lets through is well-formed.
func scan(signature string, body []byte, order binary.ByteOrder) error {
	s := scanner{body: body, order: order}
	for signature != "" {
		var err error
		if signature, err = s.value(signature, 0); err != nil {
			return err
		}
	}
	return nil
}

type scanner struct {
	body   []byte
	at     int
	order  binary.ByteOrder
	values int
}

// sizes are those of the types that have one, which they are aligned to.
var sizes = [256]int{'y': 1, 'n': 2, 'q': 2, 'b': 4, 'i': 4, 'u': 4, 'h': 4, 'x': 8, 't': 8, 'd': 8}

func (s *scanner) skip(n int) error {
	if n < 0 || n > len(s.body)-s.at {
		return errBroken
	}
	s.at += n
	return nil
}

func (s *scanner) align(n int) error { return s.skip((s.at+n-1)/n*n - s.at) }

func (s *scanner) length() (int, error) {
	if err := s.align(4); err != nil {
		return 0, err
	}
	if err := s.skip(4); err != nil {
		return 0, err
	}
	n := s.order.Uint32(s.body[s.at-4:])
	if n > 1<<26 {
		return 0, errBroken
	}
	return int(n), nil
}

// value walks over the first of a signature's values and returns what is left of the signature.
func (s *scanner) value(signature string, depth int) (rest string, err error) {
	if depth > maxDepth {
		return "", errDeep
	}
	if s.values++; s.values > maxValues {
		return "", errMany
	}
	kind, rest := signature[0], signature[1:]
	if size := sizes[kind]; size > 0 {
		if err := s.align(size); err != nil {
			return "", err
		}
		return rest, s.skip(size)
	}
	switch kind {
	case 's', 'o':
		n, err := s.length()
		if err != nil {
			return "", err
		}
		return rest, s.skip(n + 1)
	case 'g', 'v':
		if s.at >= len(s.body) {
			return "", errBroken
		}
		begin := s.at + 1
		if err := s.skip(int(s.body[s.at]) + 2); err != nil {
			return "", err
		}
		if kind == 'g' {
			return rest, nil
		}
		inner := string(s.body[begin : s.at-1])
		if element, ok := single(inner); !ok || element != inner {
			return "", errBroken
		}
		_, err := s.value(inner, depth+1)
		return rest, err
	case 'a':
		element, ok := single(rest)
		if !ok {
			return "", errBroken
		}
		n, err := s.length()
		if err != nil {
			return "", err
		}
		if err := s.align(alignment(element[0])); err != nil {
			return "", err
		}
		end := s.at + n
		if n > len(s.body)-s.at {
			return "", errBroken
		}
		if size := sizes[element[0]]; size > 0 {
			if s.values += n / size; s.values > maxValues {
				return "", errMany
			}
			s.at = end
		}
		for s.at < end {
			if _, err := s.value(element, depth+1); err != nil {
				return "", err
			}
		}
		return rest[len(element):], nil
	case '(', '{':
		whole, ok := single(signature)
		if !ok {
			return "", errBroken
		}
		if err := s.align(8); err != nil {
			return "", err
		}
		for inner := whole[1 : len(whole)-1]; inner != ""; {
			if inner, err = s.value(inner, depth+1); err != nil {
				return "", err
			}
		}
		return signature[len(whole):], nil
	}
	return "", errBroken
}

// alignment of a type that begins so.
func alignment(kind byte) int {
	switch kind {
	case 's', 'o', 'a':
		return 4
	case '(', '{':
		return 8
	}
	return max(sizes[kind], 1)
}

// single is the first complete type of a signature.
func single(signature string) (string, bool) {
	open := 0
	for i := range len(signature) {
		switch signature[i] {
		case 'a':
			continue
		case '(', '{':
			open++
			continue
		case ')', '}':
			open--
		}
		if open < 0 {
			return "", false
		}
		if open == 0 {
			return signature[:i+1], true
		}
	}
	return "", false
}
