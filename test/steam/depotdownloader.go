package steam

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// The texts are as recorded in issues of SteamRE/DepotDownloader (436, 536, 572, 609) and in its ContentDownloader.cs.

// config is where it keeps what it knows of a directory.
const config = ".DepotDownloader"

// WriteDepotDownloader makes the program in a directory. binary is a program that calls Program.
func WriteDepotDownloader(dir, binary string) error {
	return copyFile(filepath.Join(dir, "DepotDownloader"), binary, 0o755)
}

func (p *program) depotDownloader(args []string) int {
	if err := canExecute(); err != nil {
		fmt.Fprintln(os.Stderr, "Failed to create CoreCLR, HRESULT: 0x80004005")
		return 137
	}
	option := func(name string) string {
		if n := slices.Index(args, name); n >= 0 && n+1 < len(args) {
			return args[n+1]
		}
		return ""
	}
	app := option("-app")
	if app == "" {
		p.out.printf("Error: -app not specified!\n")
		return 1
	}
	if !slices.Contains(args, "-username") {
		p.out.printf("No username given. Using anonymous account with dedicated server subscription.\n")
	}
	p.out.printf("Connecting to Steam3...")
	var err error
	if p.orders, err = p.client.begin("depotdownloader", args); err != nil {
		p.out.printf("\nTimeout connecting to Steam3.\nError: InitializeSteam failed\n")
		return 1
	}
	p.out.printf(" Done!\nLogging anonymously into Steam3... Done!\nUsing Steam3 suggested CellID: 89\n")
	status, err := p.download(app, option("-os"), option("-pubfile"), option("-dir"), slices.Contains(args, "-validate"))
	if err != nil {
		// .NET prints what nobody has caught.
		p.out.printf("Unhandled exception. System.IO.IOException: %v\n", err)
		return 134
	}
	p.out.printf("Disconnected from Steam\n")
	return status
}

func (p *program) download(app, system, pubfile, dir string, validate bool) (int, error) {
	if pubfile != "" {
		var item publishedFile
		if err := p.client.do("GET", ownPath+"item?id="+pubfile, nil, &item); err != nil || item.Filename == "" {
			p.out.printf("Unable to locate manifest ID for published file %s\n", pubfile)
			return 0, nil
		}
		if dir == "" {
			dir = "depots/" + app
		}
		to := filepath.Join(dir, item.Filename)
		if item.URL {
			p.out.printf("Downloading %s\n", item.Filename)
			return 0, p.save("ugc", pubfile, to)
		}
		return p.depot(app, dir, manifest{Platform: "ugc", ID: "1" + pubfile, Files: []depotFile{{Path: pubfile, Size: item.Size, SHA1: item.SHA1}}}, validate, to)
	}
	if app != fmt.Sprint(ServerApp) || p.orders.Build == "" {
		p.out.printf("Got AppInfo for %s\nError: App %[1]s () is not available from this account.\n", app)
		return 1, nil
	}
	if system == "" {
		system = "linux"
	}
	m, err := p.client.manifest(system)
	if err != nil {
		return 1, err
	}
	if dir == "" {
		dir = filepath.Join("depots", app, m.Build)
	}
	return p.depot(app, dir, m, validate, "")
}

func (p *program) save(platform, name, to string) error {
	in, err := p.client.open(platform, name, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	return writeFile(to, in, 0o644)
}

// depot downloads what a manifest has. It neither writes nor reads an appmanifest_*.acf.
func (p *program) depot(app, dir string, m manifest, validate bool, single string) (int, error) {
	id := map[bool]string{true: "222861", false: app}[app == fmt.Sprint(ServerApp)]
	p.out.printf("Got AppInfo for %s\n", app)
	if p.befalls("unavailable") != nil {
		p.out.printf("Error: App %s () is not available from this account.\n", app)
		return 1, nil
	}
	if single == "" {
		p.out.printf("Using app branch: 'public'.\n")
	}
	p.out.printf("Got depot key for %s result: OK\nProcessing depot %[1]s\nDownloading depot %[1]s manifest\n", id)
	if p.befalls("401") != nil {
		p.out.printf("No manifest request code was returned for depot %s from app %s, manifest %s\nEncountered 401 for depot manifest %[1]s %[3]s. Aborting.\n\n"+
			"Unable to download manifest %[3]s for depot %[1]s\nApp %[2]s was not completely downloaded.\nError: The operation was canceled.\n", id, app, m.ID)
		return 1, nil
	}
	p.out.printf("Got manifest request code for depot %s from app %s, manifest %s, result: 17777606457820895138\nManifest %[3]s (04/21/2024 02:07:23)\n", id, app, m.ID)
	state := filepath.Join(dir, config, id+".manifest")
	t := &transfer{
		p: p, dir: dir, staging: filepath.Join(dir, config, "staging"), manifest: m,
		modes: p.befalls("no-modes") == nil, // older versions make nothing executable
	}
	var verify func(done, total int64)
	if validate {
		verify = func(int64, int64) {}
	}
	if err := t.plan(readManifest(state), verify); err != nil {
		return 1, err
	}
	p.out.printf("Downloading depot %s\n", id)
	for _, name := range t.gone {
		p.out.printf("Deleting %s\n", filepath.Join(dir, name))
	}
	for _, f := range t.changed {
		p.out.printf("Pre-allocating %s\n", filepath.Join(dir, f.Path))
	}
	t.line = func(file string) { p.out.printf(" %05.2f%% %s\n", percent(t.done, t.total), filepath.Join(dir, file)) }
	err := t.fetch()
	var f misfortune
	if errors.As(err, &f) {
		p.strike(f.Fault)
	}
	if err != nil {
		return 1, err
	}
	t.line = func(string) {}
	if err := t.place(); err != nil {
		return 1, err
	}
	if single != "" {
		if err := os.MkdirAll(filepath.Dir(single), 0o755); err != nil {
			return 1, err
		}
		if err := os.Rename(filepath.Join(dir, m.Files[0].Path), single); err != nil {
			return 1, err
		}
	} else if err := writeManifest(state, m); err != nil {
		return 1, err
	}
	p.out.printf("Depot %s - Downloaded %d bytes (%[2]d bytes uncompressed)\nTotal downloaded: %[2]d bytes (%[2]d bytes uncompressed) from 1 depots\n", id, t.total)
	return 0, nil
}

// publishedFile is what it asks of an item.
type publishedFile struct {
	Filename, SHA1 string
	Size           int64
	URL            bool
}
