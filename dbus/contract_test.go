package dbus

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/doc"
	"left4.me/left4/dbus/names"
)

// told are the interfaces with their comments, by name.
func told(t *testing.T) map[string]doc.Interface {
	t.Helper()
	files, err := contract.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]doc.Interface{}
	for _, file := range files {
		text, err := contract.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		interfaces, err := doc.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", file.Name(), err)
		}
		for _, i := range interfaces {
			all[i.Name] = i
		}
	}
	return all
}

// codes are the constants of daemon.Code, but for Failed, which has no name of left4's on the bus.
func codes(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../daemon/error.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Code" {
				code, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, code)
			}
		}
		return true
	})
	if !slices.Contains(all, "Failed") || len(all) < 10 {
		t.Fatalf("the codes are %v", all)
	}
	return slices.DeleteFunc(all, func(code string) bool { return code == "Failed" })
}

// standardErrors are those of org.freedesktop.DBus.Error. that a comment may name; every call can end in the others.
var standardErrors = []string{"LimitsExceeded", "PropertyReadOnly", "UnknownInterface", "UnknownProperty"}

func TestWhatTheCommentsSayOfMethods(t *testing.T) {
	f, err := newFace()
	if err != nil {
		t.Fatal(err)
	}
	codes := codes(t)
	named := map[string]bool{}
	for _, i := range told(t) {
		for _, m := range i.Methods {
			name := i.Name + "." + m.Name
			row := f.methods[i.Name][m.Name]
			if row == nil {
				t.Errorf("%s stands in the XML only", name)
				continue
			}
			if m.Polkit == "" || m.Action() != row.action {
				t.Errorf("%s says polkit: %q, and the table %q", name, m.Polkit, row.action)
			}
			for _, action := range regexp.MustCompile(`me\.left4\.[a-z.]+[a-z]`).FindAllString(m.Polkit, -1) {
				if !slices.Contains(f.actions, action) {
					t.Errorf("%s names %s, which no method asks for", name, action)
				}
			}
			for _, e := range m.ErrorNames() {
				named[e] = true
				if !slices.Contains(codes, e) && !slices.Contains(standardErrors, e) {
					t.Errorf("%s names the error %q, which there is not", name, e)
				}
			}
		}
	}
	for _, code := range codes {
		if !named[code] {
			t.Errorf("no method is said to fail with %s", code)
		}
	}
}

// Who has nothing but introspection reads all of it.
func TestIntrospectionShowsTheComments(t *testing.T) {
	f, err := newFace()
	if err != nil {
		t.Fatal(err)
	}
	for name, i := range told(t) {
		shown, err := doc.Parse([]byte("<node>\n" + f.text[name] + "</node>\n"))
		if err != nil || len(shown) != 1 || !reflect.DeepEqual(shown[0], i) {
			t.Errorf("%s is shown as %+v, %v", name, shown, err)
		}
		if len(i.Text) == 0 {
			t.Errorf("nothing is told of %s itself", name)
		}
	}
}

// toldErrors are the errors that each method names, by its full name.
func toldErrors(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, i := range told(t) {
		for _, m := range i.Methods {
			all[i.Name+"."+m.Name] = m.ErrorNames()
		}
	}
	return all
}

// checkTold fails the test where a call ended in an error of left4's that the comment of the method does not name.
func checkTold(t *testing.T, method string, err error) {
	t.Helper()
	var failure dbus.Error
	if !errors.As(err, &failure) {
		return
	}
	code, ours := strings.CutPrefix(failure.Name, names.Error)
	if all, known := toldErrors(t)[method]; ours && known && !slices.Contains(all, code) {
		t.Errorf("%s failed with %s, which its comment does not name: %v", method, code, err)
	}
}
