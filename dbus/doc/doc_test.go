package doc

import (
	"reflect"
	"strings"
	"testing"
)

const whole = `<node>
  <interface name="a.B">
    <!--
      First line,
      second one.

      Keys:
        port   q   a port
                   of a thing
        label  s   a text
      No key.
    -->
    <!-- Does it,
         and more.
         @name: of what
         @options: timeout t: microseconds,
         or none
         @job: a job
         errors: InUse (something
         is used), Busy
         polkit: a.do; not always -->
    <method name="Do">
      <arg name="name" type="s" direction="in"/>
      <arg name="options" type="a{sv}" direction="in"/>
      <arg name="job" type="o" direction="out"/>
    </method>
    <!-- Asks.
         polkit: none -->
    <method name="Ask"/>
    <!-- It was done.
         @name: of what -->
    <signal name="Done">
      <arg name="name" type="s"/>
    </signal>
    <!-- How much. -->
    <property name="Size" type="t" access="read">
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="true"/>
    </property>
  </interface>
</node>`

func TestParse(t *testing.T) {
	got, err := Parse([]byte(whole))
	want := []Interface{{
		Name: "a.B",
		Text: []Paragraph{
			{Text: "First line, second one."},
			{Text: "Keys:", Rows: []Row{{"port", "q", "a port of a thing"}, {"label", "s", "a text"}}},
			{Text: "No key."},
		},
		Methods: []Member{
			{
				Name: "Do", Text: []Paragraph{{Text: "Does it, and more."}},
				Args: []Arg{
					{"name", "s", "in", "of what"}, {"options", "a{sv}", "in", "timeout t: microseconds, or none"}, {"job", "o", "out", "a job"},
				},
				Errors: "InUse (something is used), Busy", Polkit: "a.do; not always",
			},
			{Name: "Ask", Text: []Paragraph{{Text: "Asks."}}, Polkit: "none"},
		},
		Signals:    []Member{{Name: "Done", Text: []Paragraph{{Text: "It was done."}}, Args: []Arg{{"name", "s", "", "of what"}}}},
		Properties: []Property{{"Size", "t", "read", "true", []Paragraph{{Text: "How much."}}}},
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	do := want[0].Methods[0]
	if names := do.ErrorNames(); !reflect.DeepEqual(names, []string{"InUse", "Busy"}) || do.Action() != "a.do" {
		t.Errorf("errors %q, action %q", names, do.Action())
	}
	if ask := want[0].Methods[1]; ask.ErrorNames() != nil || ask.Action() != "" {
		t.Errorf("errors %q, action %q", ask.ErrorNames(), ask.Action())
	}
}

func TestWhatIsNotToldIsNamed(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"<!-- How much. -->", "", "nothing is told of a.B.Size"},
		{"<!-- How much. -->", "<!-- -->", "nothing is told of a.B.Size"},
		{"<!-- Asks.\n         polkit: none -->", "", "nothing is told of a.B.Ask"},
		{"<!-- It was done.\n         @name: of what -->", "<!-- It was done. -->", "a.B.Done: nothing is told of its argument name"},
		{"         @name: of what\n         @options", "         @options", "a.B.Do: nothing is told of its argument name"},
		{"@job: a job", "@work: a job", "a.B.Do: nothing is told of its argument job"},
		{"Asks.\n", "Asks.\n @what: that\n", "a.B.Ask has no argument what"},
		{"<!-- Asks.", "<!-- Left over. --><!-- Asks.", "1 comments before that of a.B.Ask"},
		{"  </interface>", "<!-- Left over. --></interface>", "1 comments at the end of a.B"},
		{"  <interface", "<!-- Lost. --><interface", "a comment before a.B"},
		{"It was done.\n", "It was done.\n errors: Busy\n", "a.B.Done is called by nobody"},
		{"<!--\n      First", "<!-- Two. --><!--\n      First", "2 comments are told of a.B, not 1"},
	} {
		text := strings.Replace(whole, c.old, c.new, 1)
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: %v, want %s", c.new, c.old, err, c.want)
		}
	}
}
