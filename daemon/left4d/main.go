// Left4d is the system service of left4: it answers for me.left4 on the system bus. It takes no arguments; systemd
// starts it, at boot or by the first call.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"left4.me/left4/daemon"
	"left4.me/left4/daemon/journal"
	"left4.me/left4/daemon/store"
	"left4.me/left4/dbus"
	"left4.me/left4/dbus/names"
	"left4.me/left4/polkit"
	"left4.me/left4/units"
)

// version is set by the linker.
var version = "0"

const (
	stateDir  = "/var/lib/left4"
	runDir    = "/run/left4"
	configDir = "/etc/systemd/system"
	helperDir = "/usr/libexec/left4"

	// startTime bounds each step of the way up: systemd and the bus answer in milliseconds.
	startTime = 30 * time.Second
	// closeTime is what the calls under way have to be answered in; the unit's own stop time-out is longer.
	closeTime = 5 * time.Second
	// reconcile is a backstop only: every change is told by a signal.
	reconcile = 15 * time.Minute
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if journal.Available() {
		log = slog.New(journal.New(map[string]string{
			"call": names.MessageCall, "job": names.MessageJob, "state": names.MessageState,
		}))
	}
	if len(os.Args) > 1 {
		if os.Args[1] == "--version" {
			fmt.Println("left4d", version)
			return
		}
		fmt.Fprintln(os.Stderr, "left4d: takes no arguments; systemctl start left4d starts it")
		os.Exit(2)
	}
	if err := run(log); err != nil {
		log.Error("left4d ends", "error", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	stop, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer cancel()
	up, upDone := context.WithTimeout(stop, startTime)
	defer upDone()

	db, err := store.Open(filepath.Join(stateDir, "left4.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	systemd, err := units.Connect(up)
	if err != nil {
		return err
	}
	defer systemd.Close()
	face, err := dbus.Dial(up, log)
	if err != nil {
		return err
	}
	config := units.Config{Dir: configDir, RunDir: runDir}
	d, err := daemon.New(daemon.Options{
		Store: db, Units: systemd, Config: config, Layout: units.Layout{State: stateDir, Run: runDir}, Events: face,
		Log: log, Version: version,
		Worker: filepath.Join(helperDir, "left4-worker"), PreStart: filepath.Join(helperDir, "left4-overlay"),
		SettingsPath: "/etc/left4/left4d.conf",
	})
	if err != nil {
		return err
	}
	// Signals first, then the first look, so that nothing is missed between.
	systemd.Watch(d.UnitChanged, d.Reloaded)
	if err := config.WatchEnablement(stop, d.EnablementChanged); err != nil {
		return err
	}
	defer d.Close()
	serve := func() error { return face.Serve(up, d, polkit.New(systemd.Conn())) }
	if err := d.Begin(up, serve); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		face.Close(ctx)
	}()
	upDone()
	log.Info("left4d serves", "version", version, "instances", len(d.Instances()))
	sd.SdNotify(false, sd.SdNotifyReady)

	tick := time.NewTicker(reconcile)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			go d.Reconcile()
		case <-face.Done():
			return face.Err()
		case <-systemd.Done():
			return errors.New("the connection to the system bus was lost")
		case err := <-db.Broken():
			if disk := db.Readable(); disk != nil {
				// Servers can be stopped all the same, and another left4d could not even begin.
				log.Error("the disk with the database fails", "error", disk)
				continue
			}
			// The next left4d looks what is left of it.
			return fmt.Errorf("the database cannot be used any more: %w", err)
		case <-stop.Done():
			sd.SdNotify(false, sd.SdNotifyStopping)
			log.Info("left4d stops; servers go on")
			return nil
		}
	}
}
