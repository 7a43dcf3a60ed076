package daemon

import (
	"testing"
	"time"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

func TestJudge(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	stop := &store.Job{ID: 12, Kind: "stop", State: JobDone, Requester: 4000000}
	start := &store.Job{ID: 13, Kind: "start", State: JobDone, Requester: 4000000, Started: at(10).UnixMicro(), Finished: at(20).UnixMicro()}
	quit := units.State{Active: "inactive", Loaded: true, Result: "success", ExecMainCode: 1, ExecMainStart: at(1), ExecMainExit: at(5), ActiveExit: at(6)}
	stopped := quit
	stopped.ActiveExit = at(4)
	for name, c := range map[string]struct {
		facts
		state, cause string
		drifted      bool
	}{
		"never started":       {facts{server: units.State{Active: "inactive"}}, Stopped, "not started yet", false},
		"stopped by a job":    {facts{server: units.State{Active: "inactive"}, last: stop}, Stopped, "stopped by uid 4000000 (job 12)", false},
		"could not start":     {facts{server: units.State{Active: "inactive"}, last: &store.Job{Kind: "start", State: JobFailed, Cause: "cannot start a: the game is not installed"}}, Stopped, "cannot start a: the game is not installed", false},
		"disabled and down":   {facts{server: units.State{Active: "inactive"}, last: start}, Stopped, "stopped and disabled outside left4", false},
		"started by a job":    {facts{server: units.State{Active: "active", ActiveEnter: at(15)}, starter: start, enabled: true}, Running, "started by uid 4000000 (job 13)", false},
		"started at boot":     {facts{server: units.State{Active: "active", ActiveEnter: at(99)}, last: start, enabled: true, boot: at(90)}, Running, "started at boot", false},
		"restarted by hand":   {facts{server: units.State{Active: "active", ActiveEnter: at(9999)}, last: start, enabled: true, boot: at(90)}, Running, "started outside left4", false},
		"killed after stop":   {facts{server: units.State{Active: "failed", NRestarts: 1, Result: "timeout", ExecMainExit: at(9), ActiveExit: at(5)}, enabled: true, restart: "always"}, FailedState, "stopped outside left4; it did not end in time and was killed", true},
		"restart failed":      {facts{server: units.State{Active: "inactive"}, last: &store.Job{Kind: "restart", State: JobFailed, Cause: "cannot restart a: no space"}, enabled: true}, Stopped, "cannot restart a: no space", true},
		"started by hand":     {facts{server: units.State{Active: "active", ActiveEnter: at(99)}, last: stop}, Running, "started outside left4", true},
		"stopped by hand":     {facts{server: stopped, last: start, enabled: true, restart: "always"}, Stopped, "stopped outside left4", true},
		"stopped, unloaded":   {facts{server: units.State{Active: "inactive"}, last: start, enabled: true}, Stopped, "stopped outside left4", true},
		"quit, no restart":    {facts{server: quit, last: start, enabled: true, restart: "no"}, Stopped, "it ended by itself with status 0, and the restart policy is no", true},
		"waits for restart":   {facts{server: units.State{Active: "activating", Sub: "auto-restart", ExecMainCode: 3, ExecMainStatus: 11, Result: "core-dump"}, enabled: true}, Restarting, "it crashed with SIGSEGV (core dumped)", false},
		"was restarted":       {facts{server: units.State{Active: "active", NRestarts: 2}, lastExit: "it was killed by SIGKILL", enabled: true}, Running, "restarted by systemd: it was killed by SIGKILL", false},
		"restarted unseen":    {facts{server: units.State{Active: "active", NRestarts: 2}, enabled: true}, Running, "restarted by systemd 2 times", false},
		"start limit":         {facts{server: units.State{Active: "failed", NRestarts: 50, StartLimit: 5, StartInterval: time.Minute, Result: "signal", ExecMainCode: 2, ExecMainStatus: 9}, enabled: true, restart: "always"}, FailedState, "start limit hit after 5 starts in 60 s; the last one: it was killed by SIGKILL", true},
		"OOM":                 {facts{server: units.State{Active: "failed", Result: "oom-kill"}, enabled: true, restart: "no"}, FailedState, "killed by the OOM killer", true},
		"exit 1":              {facts{server: units.State{Active: "failed", Result: "exit-code", ExecMainCode: 1, ExecMainStatus: 1}, enabled: true, restart: "no"}, FailedState, "it ended by itself with status 1", true},
		"no srcds_run":        {facts{server: units.State{Active: "failed", Result: "exit-code", ExecMainCode: 1, ExecMainStatus: 203}, enabled: true, restart: "no"}, FailedState, "it could not be started: srcds_run is missing or cannot be executed", true},
		"port taken":          {facts{server: units.State{Active: "activating", Sub: "auto-restart", PreStart: []units.ExecStatus{{PID: 3, Code: 1, Status: units.PortTaken}}}, port: 27015, enabled: true}, Restarting, "port 27015 is taken by another program", false},
		"look at port killed": {facts{server: units.State{Active: "failed", Result: "signal", PreStart: []units.ExecStatus{{PID: 3, Code: 2, Status: 9}}}, enabled: true, restart: "no"}, FailedState, "the look at its port was killed by SIGKILL", true},
		"mount failed":        {facts{server: units.State{Active: "inactive"}, overlay: units.State{Active: "failed", StatusText: "cannot mount a: no space"}, enabled: true}, FailedState, "its files cannot be mounted: no space", true},
		"masked twice":        {facts{server: units.State{Active: "inactive"}, masked: true, last: &store.Job{Kind: "start", State: JobFailed, Cause: "cannot start a: the unit is masked"}}, Stopped, "cannot start a: the unit is masked", false},
		"masked and running":  {facts{server: units.State{Active: "active"}, masked: true, starter: start, enabled: true}, Running, "started by uid 4000000 (job 13); the unit is masked", false},
		"crash without core":  {facts{server: units.State{Active: "failed", Result: "signal", ExecMainCode: 2, ExecMainStatus: 11}, enabled: true, restart: "no"}, FailedState, "it crashed with SIGSEGV", true},
		"not initialized":     {facts{server: units.State{Active: "failed", Result: "exit-code", ExecMainCode: 1, ExecMainStatus: 78}, enabled: true}, FailedState, "it could not be started: it was not initialized by left4d", true},
		"unmounted by hand":   {facts{server: units.State{Active: "failed", Result: "exit-code", ExecMainCode: 1, ExecMainStatus: 203}, unmounted: true, enabled: true}, FailedState, "its files were unmounted outside left4", true},
		"gone after a crash":  {facts{server: units.State{Active: "failed", NRestarts: 5, StartLimit: 5, StartInterval: time.Minute, Result: "exit-code", ExecMainCode: 1, ExecMainStatus: 203, ActiveExit: at(5), ExecMainStart: at(10), ExecMainExit: at(10)}, enabled: true, restart: "always"}, FailedState, "start limit hit after 5 starts in 60 s; the last one: it could not be started: srcds_run is missing or cannot be executed", true},
		"quit, seen earlier":  {facts{server: units.State{Active: "inactive"}, last: start, enabled: true, lastExit: "it ended by itself with status 0, and the restart policy is no"}, Stopped, "it ended by itself with status 0, and the restart policy is no", true},
		"begun after a stop":  {facts{server: units.State{Active: "activating", Sub: "start-pre"}, enabled: true, lastExit: "stopped outside left4"}, Starting, "being started by systemd", false},
		"stop at its end":     {facts{server: stopped, last: start, running: &store.Job{ID: 14, Kind: "stop", Requester: 4000000}}, Stopped, "stopped by uid 4000000 (job 14)", false},
		"stop that killed":    {facts{server: units.State{Active: "failed", Result: "timeout"}, running: &store.Job{ID: 14, Kind: "stop", Requester: 4000000}}, Stopping, "being stopped by uid 4000000 (job 14)", false},
		"reset at its end":    {facts{server: stopped, last: stop, running: &store.Job{ID: 14, Kind: "reset", Requester: 4000000}}, Stopped, "being reset by uid 4000000 (job 14)", false},
		"start begins":        {facts{server: units.State{Active: "inactive"}, last: stop, enabled: true, running: &store.Job{ID: 14, Kind: "start", Requester: 4000000}}, Stopped, "being started by uid 4000000 (job 14)", false},
		"killed in restart":   {facts{server: units.State{Active: "failed", Result: "timeout"}, running: &store.Job{ID: 14, Kind: "restart", Requester: 4000000}, enabled: true}, Restarting, "being restarted by uid 4000000 (job 14)", false},
		"canceled kill":       {facts{server: units.State{Active: "failed", Result: "signal", ExecMainCode: 2, ExecMainStatus: 9, ActiveExit: at(5), ExecMainExit: at(6)}, stopper: &store.Job{ID: 14, Kind: "kill", State: JobCanceled, Requester: 4000000}}, FailedState, "killed by uid 4000000 (job 14); it was killed by SIGKILL", false},
		"canceled stop":       {facts{server: units.State{Active: "deactivating"}, stopper: &store.Job{ID: 14, Kind: "stop", State: JobCanceled, Requester: 4000000}}, Stopping, "being stopped by uid 4000000 (job 14)", false},
		"OOM, told at once":   {facts{server: units.State{Active: "failed", Result: "oom-kill", ExecMainCode: 2, ExecMainStatus: 9, ExecMainStart: at(1), ActiveExit: at(5), ExecMainExit: at(6)}, enabled: true, restart: "no"}, FailedState, "killed by the OOM killer", true},
		"unmounted, limit":    {facts{server: units.State{Active: "failed", NRestarts: 5, StartLimit: 5, StartInterval: time.Minute, Result: "exit-code", ExecMainCode: 1, ExecMainStatus: 203}, lastExit: unmounted, enabled: true, restart: "always"}, FailedState, "start limit hit after 5 starts in 60 s; the last one: its files were unmounted outside left4", true},
		"read while it began": {facts{server: units.State{Active: "activating", Sub: "auto-restart", Result: "success"}, lastExit: "it ended by itself with status 0", enabled: true}, Restarting, "it ended by itself with status 0", false},
		"start timed out":     {facts{server: units.State{Active: "failed", Result: "timeout", InactiveExit: at(5), ActiveEnter: at(1)}, enabled: true, restart: "no"}, FailedState, "it did not start in time and was killed", true},
		"enabled after quit":  {facts{server: quit, enabled: true, last: &store.Job{Kind: "stop", State: JobDone, Finished: at(6).UnixMicro()}}, Stopped, "enabled outside left4, and not started since", true},
		"unmount failed":      {facts{server: stopped, overlay: units.State{Active: "failed", StatusText: "cannot unmount a: in use", ExecMainCode: 1}, masked: true, last: start, enabled: true, restart: "always"}, Stopped, "the unit is masked; stopped outside left4; its files could not be unmounted", true},
		"masked":              {facts{server: units.State{Active: "inactive"}, masked: true}, Stopped, "the unit is masked; not started yet", false},
		"restart under way":   {facts{server: units.State{Active: "inactive"}, running: &store.Job{ID: 14, Kind: "restart", Requester: 4000000}, enabled: true}, Restarting, "being restarted by uid 4000000 (job 14)", false},
		"stop under way":      {facts{server: units.State{Active: "deactivating"}, running: &store.Job{ID: 14, Kind: "stop", Requester: 4000000}}, Stopping, "being stopped by uid 4000000 (job 14)", false},
		"mounting for a job":  {facts{server: units.State{Active: "inactive"}, overlay: units.State{Active: "activating"}, last: stop, enabled: true, running: &store.Job{ID: 14, Kind: "start", Requester: 4000000}}, Starting, "being started by uid 4000000 (job 14)", false},
		"mounted for a job":   {facts{server: units.State{Active: "inactive", Job: 7}, overlay: units.State{Active: "active"}, last: stop, enabled: true, running: &store.Job{ID: 14, Kind: "start", Requester: 4000000}}, Starting, "being started by uid 4000000 (job 14)", false},
		"mounting by hand":    {facts{server: units.State{Active: "inactive"}, overlay: units.State{Active: "activating"}, last: stop}, Starting, "being started by systemd", true},
		"being stopped":       {facts{server: units.State{Active: "deactivating"}, enabled: true}, Stopping, "being stopped outside left4", false},
		"starting":            {facts{server: units.State{Active: "activating", Sub: "start-pre"}, enabled: true}, Starting, "being started by systemd", false},
		"enabled by hand":     {facts{server: units.State{Active: "inactive"}, enabled: true, last: stop}, Stopped, "enabled outside left4, and not started since", true},
		"disabled by hand":    {facts{server: units.State{Active: "active", ActiveEnter: at(15)}, last: stop, starter: start}, Running, "started by uid 4000000 (job 13)", true},
		"killed at deadline":  {facts{server: units.State{Active: "failed", Result: "timeout"}, enabled: true, restart: "no"}, FailedState, "it did not end in time and was killed", true},
	} {
		t.Run(name, func(t *testing.T) {
			v := judge(c.facts)
			if v.state != c.state || v.cause != c.cause || v.drifted != c.drifted {
				t.Errorf("got %s, %q, drifted %v; want %s, %q, %v", v.state, v.cause, v.drifted, c.state, c.cause, c.drifted)
			}
		})
	}
}
