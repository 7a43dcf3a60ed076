package units

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Traces are the instances that have a drop-in of left4, and those that have an enablement link.
func (c Config) Traces() (dropIns, links []string, err error) {
	entries, err := os.ReadDir(c.Dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		unit, ok := strings.CutSuffix(e.Name(), ".d")
		name, server := InstanceOf(unit)
		if !ok || !server || unit != ServerUnit(name) {
			continue
		}
		if _, err := os.Lstat(c.DropInPath(name)); err == nil {
			dropIns = append(dropIns, name)
		}
	}
	entries, err = os.ReadDir(filepath.Join(c.Dir, wantsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for _, e := range entries {
		if name, ok := InstanceOf(e.Name()); ok && e.Name() == ServerUnit(name) {
			links = append(links, name)
		}
	}
	return dropIns, links, nil
}

// Edits are the files by which an administrator has changed what the units of left4 say, for all instances or for one.
func (c Config) Edits() ([]string, error) {
	entries, err := os.ReadDir(c.Dir)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		unit, isDropIn := strings.CutSuffix(e.Name(), ".d")
		_, instance := InstanceOf(unit)
		if !instance && !slices.Contains([]string{serverPrefix + serviceSuffix, overlayPrefix + serviceSuffix, "left4d.service"}, unit) {
			continue
		}
		path := filepath.Join(c.Dir, e.Name())
		if !isDropIn {
			if target, err := os.Readlink(path); err != nil || target != os.DevNull {
				all = append(all, path)
			}
			continue
		}
		files, err := os.ReadDir(path)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if strings.HasSuffix(f.Name(), ".conf") && f.Name() != dropInName {
				all = append(all, filepath.Join(path, f.Name()))
			}
		}
	}
	return all, nil
}
