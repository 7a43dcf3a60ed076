module left4.me/left4

go 1.24.0

require (
	github.com/cenkalti/backoff/v5 v5.0.3
	github.com/coreos/go-systemd/v22 v22.7.0
	github.com/godbus/dbus/v5 v5.2.4
	github.com/jmoiron/sqlx v1.4.0
	github.com/klauspost/compress v1.18.5
	github.com/mattn/go-sqlite3 v1.14.53
	github.com/rogpeppe/go-internal v1.14.1
	github.com/spf13/pflag v1.1.0
	github.com/ulikunitz/xz v0.5.17
	go.yaml.in/yaml/v3 v3.0.6
	golang.org/x/sys v0.41.0
	golang.org/x/term v0.40.0
)

require golang.org/x/tools v0.26.0 // indirect
