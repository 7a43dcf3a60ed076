package dbus

import (
	"embed"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"

	"left4.me/left4/dbus/names"
)

//go:embed me.left4.*.xml standard.xml
var contract embed.FS

// open stands in the table for what every local user may do.
const open = ""

// polkit's actions.
const action = "me.left4."

// method is one row of the face: what is called, with which arguments, who may, and what does it.
type method struct {
	iface, name string
	in, out     string // signatures; the caller's must be in to the letter
	action      string // polkit's, or open
	call        func(*Server, *call) ([]any, error)
	config      bool // takes a definition or a list of paths, the only large arguments
}

// methods is the whole face. Nothing else can be called, and newFace refuses to start when it and the XML differ.
var methods = []method{
	{names.Manager, "CreateInstance", "sa{sv}a{sv}", "o", action + "instance.create", (*Server).createInstance, true},
	{names.Manager, "InitializeInstance", "sa{sv}a{sv}", "o", action + "instance.initialize", (*Server).initializeInstance, true},
	{names.Manager, "StartInstance", "sa{sv}", "o", action + "instance.start", (*Server).verb, false},
	{names.Manager, "StopInstance", "sa{sv}", "o", action + "instance.stop", (*Server).verb, false},
	{names.Manager, "RestartInstance", "sa{sv}", "o", action + "instance.restart", (*Server).verb, false},
	{names.Manager, "KillInstance", "sa{sv}", "o", action + "instance.kill", (*Server).verb, false},
	{names.Manager, "ResetInstance", "sa{sv}", "o", action + "instance.reset", (*Server).verb, false},
	{names.Manager, "DeleteInstance", "sa{sv}", "o", action + "instance.delete", (*Server).verb, false},
	{names.Manager, "ConfigureInstance", "sa{sv}a{sv}", "", action + "instance.configure", (*Server).configureInstance, true},
	{names.Manager, "GetInstance", "s", "o", open, (*Server).getInstance, false},
	{names.Manager, "ListInstances", "a{sv}", "a(ssssssqo)", open, (*Server).listInstances, false},
	{names.Manager, "GetSecret", "ss", "s", action + "instance.secret", (*Server).getSecret, false},
	{names.Manager, "CreateBlueprint", "sa{sv}a{sv}", "o", action + "blueprint.edit", (*Server).createBlueprint, true},
	{names.Manager, "UpdateBlueprint", "sa{sv}a{sv}", "o", action + "blueprint.edit", (*Server).updateBlueprint, true},
	{names.Manager, "DeleteBlueprint", "sa{sv}", "", action + "blueprint.delete", (*Server).deleteBlueprint, false},
	{names.Manager, "GetBlueprint", "s", "o", open, (*Server).getBlueprint, false},
	{names.Manager, "ListBlueprints", "a{sv}", "a(so)", open, (*Server).listBlueprints, false},
	{names.Manager, "CreateOverlay", "ssa{sv}a{sv}", "o", action + "overlay.edit", (*Server).createOverlay, true},
	{names.Manager, "UpdateOverlay", "ssa{sv}a{sv}", "o", action + "overlay.edit", (*Server).updateOverlay, true},
	{names.Manager, "ImportOverlay", "sha{sv}", "o", action + "overlay.edit", (*Server).importOverlay, true},
	{names.Manager, "BuildOverlay", "sa{sv}", "o", action + "overlay.build", (*Server).overlayVerb, false},
	{names.Manager, "DeleteOverlay", "sa{sv}", "o", action + "overlay.delete", (*Server).overlayVerb, false},
	{names.Manager, "GetOverlay", "s", "o", open, (*Server).getOverlay, false},
	{names.Manager, "ListOverlays", "a{sv}", "a(so)", open, (*Server).listOverlays, false},
	{names.Manager, "ImportGame", "ha{sv}", "o", action + "game.install", (*Server).importGame, false},
	{names.Manager, "InstallGame", "a{sv}", "o", action + "game.install", (*Server).installGame, false},
	{names.Manager, "SetGameRevision", "ua{sv}", "", action + "game.install", (*Server).setGameRevision, false},
	{names.Manager, "ListProblems", "a{sv}", "a(sssss)", action + "diagnose", (*Server).listProblems, false},
	{names.Manager, "RepairProblems", "asa{sv}", "o", action + "repair", (*Server).repairProblems, true},
	{names.Manager, "GetJob", "u", "o", open, (*Server).getJob, false},
	{names.Manager, "ListJobs", "a{sv}", "a(usssso)", open, (*Server).listJobs, false},
	{names.Manager, "GetPermissions", "s", "a{ss}", open, (*Server).getPermissions, false},
	{names.Manager, "CancelJob", "ua{sv}", "", action + "job.cancel", (*Server).cancelJob, false},

	{names.Instance, "Initialize", "a{sv}a{sv}", "o", action + "instance.initialize", (*Server).initializeInstance, true},
	{names.Instance, "Start", "a{sv}", "o", action + "instance.start", (*Server).verb, false},
	{names.Instance, "Stop", "a{sv}", "o", action + "instance.stop", (*Server).verb, false},
	{names.Instance, "Restart", "a{sv}", "o", action + "instance.restart", (*Server).verb, false},
	{names.Instance, "Kill", "a{sv}", "o", action + "instance.kill", (*Server).verb, false},
	{names.Instance, "Reset", "a{sv}", "o", action + "instance.reset", (*Server).verb, false},
	{names.Instance, "Delete", "a{sv}", "o", action + "instance.delete", (*Server).verb, false},
	{names.Instance, "Configure", "a{sv}a{sv}", "", action + "instance.configure", (*Server).configureInstance, true},
	{names.Instance, "GetConfig", "", "a{sv}", action + "instance.inspect", (*Server).getConfig, false},
	{names.Instance, "GetServerConfig", "", "s", action + "instance.inspect", (*Server).getServerConfig, false},
	{names.Instance, "FindFile", "s", "a(ss)", action + "instance.inspect", (*Server).findFile, false},
	{names.Instance, "ListChanges", "a{sv}", "a(sst)b", action + "instance.inspect", (*Server).listChanges, false},
	{names.Instance, "ListConflicts", "a{sv}", "a(sas)b", action + "instance.inspect", (*Server).listConflicts, false},
	{names.Instance, "ListMaps", "a{sv}", "a(ssasss)a(sss)b", action + "instance.inspect", (*Server).listMaps, false},

	{names.Blueprint, "Update", "a{sv}a{sv}", "", action + "blueprint.edit", (*Server).updateBlueprint, true},
	{names.Blueprint, "Delete", "a{sv}", "", action + "blueprint.delete", (*Server).deleteBlueprint, false},
	{names.Blueprint, "GetConfig", "", "a{sv}", action + "blueprint.inspect", (*Server).getBlueprintConfig, false},
	{names.Blueprint, "ListConflicts", "a{sv}", "a(sas)b", action + "blueprint.inspect", (*Server).listConflicts, false},

	{names.Overlay, "Update", "a{sv}a{sv}", "", action + "overlay.edit", (*Server).updateOverlay, true},
	{names.Overlay, "Import", "ha{sv}", "o", action + "overlay.edit", (*Server).importOverlay, true},
	{names.Overlay, "Build", "a{sv}", "o", action + "overlay.build", (*Server).overlayVerb, false},
	{names.Overlay, "Delete", "a{sv}", "o", action + "overlay.delete", (*Server).overlayVerb, false},
	{names.Overlay, "GetConfig", "", "a{sv}", action + "overlay.inspect", (*Server).getOverlayConfig, false},
	{names.Overlay, "ListItems", "a{sv}", "a(ssssstt)", action + "overlay.inspect", (*Server).listItems, false},
	{names.Overlay, "ListFiles", "sa{sv}", "a(sstt)b", action + "overlay.inspect", (*Server).listFiles, false},
	{names.Overlay, "ListMaps", "a{sv}", "a(ssasss)a(sss)b", action + "overlay.inspect", (*Server).listMaps, false},
	{names.Overlay, "OpenFile", "sa{sv}", "h", action + "overlay.inspect", (*Server).openFile, false},

	{names.Job, "Cancel", "a{sv}", "", action + "job.cancel", (*Server).cancelJob, false},

	{names.ObjectManager, "GetManagedObjects", "", "a{oa{sa{sv}}}", open, (*Server).getManagedObjects, false},
	{names.Properties, "Get", "ss", "v", open, (*Server).getProperty, false},
	{names.Properties, "GetAll", "s", "a{sv}", open, (*Server).getProperties, false},
	{names.Properties, "Set", "ssv", "", open, (*Server).setProperty, false},
	{names.Introspectable, "Introspect", "", "s", open, (*Server).introspect, false},
	{names.Peer, "Ping", "", "", open, func(*Server, *call) ([]any, error) { return nil, nil }, false},
	{names.Peer, "GetMachineId", "", "s", open, (*Server).machineID, false},
}

// face is the table and the XML, put together.
type face struct {
	methods map[string]map[string]*method // by interface and name
	text    map[string]string             // the <interface> element of each interface
	xml     map[string]xmlInterface
	actions []string        // that methods ask for
	matters map[string]bool // members that do something, whether it is answered or not
}

type xmlInterface struct {
	Name       string        `xml:"name,attr"`
	Methods    []xmlMember   `xml:"method"`
	Signals    []xmlMember   `xml:"signal"`
	Properties []xmlProperty `xml:"property"`
}

type xmlMember struct {
	Name string `xml:"name,attr"`
	Args []struct {
		Name      string `xml:"name,attr"`
		Type      string `xml:"type,attr"`
		Direction string `xml:"direction,attr"`
	} `xml:"arg"`
}

type xmlProperty struct {
	Name        string `xml:"name,attr"`
	Type        string `xml:"type,attr"`
	Access      string `xml:"access,attr"`
	Annotations []struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	} `xml:"annotation"`
}

func (m xmlMember) signature(direction string) string {
	var s strings.Builder
	for _, arg := range m.Args {
		if arg.Direction == direction {
			s.WriteString(arg.Type)
		}
	}
	return s.String()
}

// newFace reads the XML and holds the table against it.
func newFace() (*face, error) {
	f := &face{methods: map[string]map[string]*method{}, text: map[string]string{}, xml: map[string]xmlInterface{}, matters: map[string]bool{}}
	files, err := contract.ReadDir(".")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := contract.ReadFile(file.Name())
		if err != nil {
			return nil, err
		}
		var node struct {
			Interfaces []xmlInterface `xml:"interface"`
		}
		if err := xml.Unmarshal(text, &node); err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name(), err)
		}
		for _, i := range node.Interfaces {
			f.xml[i.Name] = i
			f.text[i.Name] = element(string(text), i.Name)
		}
	}
	for i := range methods {
		m := &methods[i]
		if f.methods[m.iface] == nil {
			f.methods[m.iface] = map[string]*method{}
		}
		f.methods[m.iface][m.name] = m
		if m.audited() {
			f.matters[m.name] = true
		}
		if m.action != open && !slices.Contains(f.actions, m.action) {
			f.actions = append(f.actions, m.action)
		}
	}
	f.actions = append(f.actions, scriptAction)
	return f, f.check()
}

// words are those that every call is made of.
func (f *face) words() words {
	w := words{string(names.Root): string(names.Root), names.Bus: names.Bus, "NameOwnerChanged": "NameOwnerChanged"}
	for _, m := range methods {
		for _, word := range []string{m.iface, m.name, m.in} {
			w[word] = word
		}
	}
	return w
}

// element cuts an <interface> with its comments out of a file.
func element(text, name string) string {
	begin := strings.Index(text, `<interface name="`+name+`">`)
	const last = "</interface>"
	end := begin + strings.Index(text[begin:], last) + len(last)
	return "  " + text[begin:end] + "\n"
}

// check finds what the table or the XML has and the other has not.
func (f *face) check() error {
	for iface, x := range f.xml {
		if len(x.Methods) != len(f.methods[iface]) {
			return fmt.Errorf("%s has %d methods in the XML and %d in the table", iface, len(x.Methods), len(f.methods[iface]))
		}
		for _, m := range x.Methods {
			row := f.methods[iface][m.Name]
			if row == nil {
				return fmt.Errorf("%s.%s stands in the XML only", iface, m.Name)
			}
			if in, out := m.signature("in"), m.signature("out"); in != row.in || out != row.out {
				return fmt.Errorf("%s.%s is (%s) → (%s) in the XML and (%s) → (%s) in the table", iface, m.Name, in, out, row.in, row.out)
			}
		}
	}
	for iface := range f.methods {
		if _, ok := f.xml[iface]; !ok {
			return fmt.Errorf("%s stands in the table only", iface)
		}
	}
	return nil
}

// find returns the method of an interface, or of any of the object's where the caller named none.
func (f *face) find(interfaces []string, iface, name string) (m *method, known bool) {
	for _, i := range interfaces {
		if iface != "" && iface != i {
			continue
		}
		known = true
		if m := f.methods[i][name]; m != nil {
			return m, true
		}
	}
	return nil, known
}

// emits tells how a property announces its changes: true, invalidates, const or false.
func (p xmlProperty) emits() string {
	for _, a := range p.Annotations {
		if a.Name == "org.freedesktop.DBus.Property.EmitsChangedSignal" {
			return a.Value
		}
	}
	return "true"
}
