package polkit

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// The names of polkit(8), "Declaring actions". polkitd accepts capitals too; nobody uses them.
var actionID = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)+$`)

var grants = []string{"no", "yes", "auth_self", "auth_admin", "auth_self_keep", "auth_admin_keep"}

const imply = "org.freedesktop.policykit.imply"

type policyFile struct {
	XMLName xml.Name       `xml:"policyconfig"`
	Vendor  []string       `xml:"vendor"`
	Actions []policyAction `xml:"action"`
	Rest    []policyRest   `xml:",any"`
	Attrs   []xml.Attr     `xml:",any,attr"`
}

type policyAction struct {
	ID           string             `xml:"id,attr"`
	Descriptions []string           `xml:"description"`
	Messages     []string           `xml:"message"`
	Defaults     []policyDefaults   `xml:"defaults"`
	Annotations  []policyAnnotation `xml:"annotate"`
	Rest         []policyRest       `xml:",any"`
	Attrs        []xml.Attr         `xml:",any,attr"`
}

type policyDefaults struct {
	Any      []string     `xml:"allow_any"`
	Inactive []string     `xml:"allow_inactive"`
	Active   []string     `xml:"allow_active"`
	Rest     []policyRest `xml:",any"`
}

type policyAnnotation struct {
	Key  string `xml:"key,attr"`
	Text string `xml:",chardata"`
}

type policyRest struct {
	XMLName xml.Name
}

// Actions returns the action ids that a polkit action file declares, in its order. It is stricter than polkitd, which
// skips what it does not know: an element or annotation that left4's file does not need is an error, as is an action
// without description, message or one of its three defaults, one that is declared twice, or one that implies an action
// which the file does not declare.
func Actions(policyXML []byte) ([]string, error) {
	ids, err := actions(policyXML)
	if err != nil {
		return nil, fmt.Errorf("cannot read the polkit actions: %w", err)
	}
	return ids, nil
}

func actions(policyXML []byte) ([]string, error) {
	d := xml.NewDecoder(bytes.NewReader(policyXML))
	var file policyFile
	if err := d.Decode(&file); err != nil {
		return nil, err
	}
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if _, ok := token.(xml.StartElement); ok {
			return nil, fmt.Errorf("a second element follows policyconfig")
		}
	}
	if err := onlyKnown("policyconfig", file.Rest, file.Attrs); err != nil {
		return nil, err
	}
	if len(file.Vendor) != 1 {
		return nil, fmt.Errorf("policyconfig has %d elements vendor, not 1", len(file.Vendor))
	}

	var ids []string
	for _, a := range file.Actions {
		if !actionID.MatchString(a.ID) {
			return nil, fmt.Errorf("%q is no action id", a.ID)
		}
		if slices.Contains(ids, a.ID) {
			return nil, fmt.Errorf("action %s is declared twice", a.ID)
		}
		ids = append(ids, a.ID)
		if err := complete(a); err != nil {
			return nil, err
		}
	}
	for _, a := range file.Actions {
		for _, annotation := range a.Annotations {
			if annotation.Key != imply {
				return nil, fmt.Errorf("action %s has the unknown annotation %s", a.ID, annotation.Key)
			}
			// One space apart: the only form that every polkitd is known to read.
			for _, id := range strings.Split(annotation.Text, " ") {
				if !slices.Contains(ids, id) {
					return nil, fmt.Errorf("action %s implies %q, which is not declared", a.ID, id)
				}
			}
		}
	}
	return ids, nil
}

func complete(a policyAction) error {
	name := "action " + a.ID
	if err := onlyKnown(name, a.Rest, a.Attrs); err != nil {
		return err
	}
	if len(a.Defaults) != 1 {
		return fmt.Errorf("%s has %d elements defaults, not 1", name, len(a.Defaults))
	}
	d := a.Defaults[0]
	if err := onlyKnown(name, d.Rest, nil); err != nil {
		return err
	}
	for _, e := range []struct {
		element string
		texts   []string
	}{
		{"description", a.Descriptions},
		{"message", a.Messages},
		{"allow_any", d.Any},
		{"allow_inactive", d.Inactive},
		{"allow_active", d.Active},
	} {
		if len(e.texts) != 1 || strings.TrimSpace(e.texts[0]) == "" {
			return fmt.Errorf("%s needs one %s", name, e.element)
		}
		if strings.HasPrefix(e.element, "allow_") && !slices.Contains(grants, e.texts[0]) {
			return fmt.Errorf("%s has the unknown %s %q", name, e.element, e.texts[0])
		}
	}
	return nil
}

func onlyKnown(where string, rest []policyRest, attrs []xml.Attr) error {
	if len(rest) > 0 {
		return fmt.Errorf("%s has the unknown element %s", where, rest[0].XMLName.Local)
	}
	if len(attrs) > 0 {
		return fmt.Errorf("%s has the unknown attribute %s", where, attrs[0].Name.Local)
	}
	return nil
}
