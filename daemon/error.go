package daemon

import (
	"errors"
	"fmt"

	"left4.me/left4/units"
)

// Code names a kind of failure; it is the last part of the error's name on the bus.
type Code string

// The codes that left4 answers with. Failed is what no other describes.
const (
	InvalidName     Code = "InvalidName"
	InvalidArgument Code = "InvalidArgument"
	NoSuchInstance  Code = "NoSuchInstance"
	NoSuchBlueprint Code = "NoSuchBlueprint"
	NoSuchOverlay   Code = "NoSuchOverlay"
	NoSuchJob       Code = "NoSuchJob"
	InstanceExists  Code = "InstanceExists"
	BlueprintExists Code = "BlueprintExists"
	OverlayExists   Code = "OverlayExists"
	PortInUse       Code = "PortInUse"
	NoFreePort      Code = "NoFreePort"
	InUse           Code = "InUse"
	Busy            Code = "Busy"
	NotInstalled    Code = "NotInstalled"
	QuotaExceeded   Code = "QuotaExceeded"
	Failed          Code = "Failed"
)

// Error is what every call of this package fails with: a code for machines and a sentence for people.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string { return e.Message }

func errorf(code Code, format string, args ...any) error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

// doing is an error with what could not be done, and to what.
type doing struct {
	text string
	err  error
}

func (e *doing) Error() string { return e.text }
func (e *doing) Unwrap() error { return e.err }

// cannot tells what could not be done. What systemd was asked to do with a unit for that is left out: nobody else has asked
// for it in these words, and its reason is what counts.
func cannot(verb, name string, err error) error {
	text := err.Error()
	var failed *units.JobError
	var need *units.NeedError
	switch {
	case errors.As(err, &failed):
		text = failed.Reason()
	case errors.As(err, &need):
		text = need.Error()
	case errors.Is(err, units.ErrMasked):
		text = units.ErrMasked.Error()
	case errors.Is(err, units.ErrLost):
		text = units.ErrLost.Error()
	}
	return &doing{fmt.Sprintf("cannot %s %s: %s", verb, name, text), err}
}

// AsError gives any failure a code; what has none is Failed.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Failed, err.Error()}
}

// AsCode is the code of any failure, "" of none.
func AsCode(err error) Code {
	if err == nil {
		return ""
	}
	return AsError(err).Code
}
