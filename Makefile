# make                build the four binaries, into build/
# make package        the .deb and the .rpm, into dist/
# sudo make demo      two game servers in a throw-away machine
# sudo make test      all tests, also in booted Debian 12 and 13
# sudo make chaos     10 000 random verbs, left4d killed 20 times
# sudo make vm        tests in emulated machines with Debian's own kernels: limits, the OOM killer, power cuts
# sudo make fault     crash points, full and failing disks, broken databases, buses and polkits: a table, dist/fault.json
# sudo make abuse     what hostile users, files and servers can do: a table, dist/abuse.json
# sudo make builders  the game from a stand-in of Steam, workshop, archives, scripts: a table, dist/builders.json
# sudo make bench     what takes how long beside what systemd takes: a table, dist/bench.json
# make tables         the tables that were made last, into docs
# make lint           formatting, go vet, staticcheck
# make install        what the package installs, below DESTDIR
# make clean

VERSION = 0.1.0
ARCH = $(shell go env GOARCH)
DEB = dist/left4_$(VERSION)_$(ARCH).deb

SHELL = /bin/bash
.SHELLFLAGS = -eu -o pipefail -c

# Where Go's own archive is unpacked to; sudo leaves it out of PATH.
export PATH := $(PATH):/usr/local/go/bin
# A Go older than go.mod, or staticcheck, asks for may fetch that one; Debian's would not, left to itself.
export GOTOOLCHAIN ?= auto

.PHONY: all deps build package demo test chaos fault abuse builders bench tables vm lint install clean

all: build

deps:
	test/deps

# No -buildvcs: git refuses to tell root about somebody else's checkout, and go then refuses to build.
BUILD = go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'

# SQLite is C, so left4d links to the C library of whoever runs it; the rest is all Go.
build: deps
	CGO_ENABLED=1 $(BUILD) -o build/left4d ./daemon/left4d
	CGO_ENABLED=0 $(BUILD) -o build/left4-worker ./daemon/worker
	CGO_ENABLED=0 $(BUILD) -o build/left4-overlay ./units/left4-overlay
	CGO_ENABLED=0 $(BUILD) -o build/left4ctl ./client/left4ctl

# One package serves Debian 12 and newer, wherever it was built: left4d must not need more than glibc 2.36. Linked
# dynamically it needs 2.34 (a static one would see the users in /etc/passwd only, and not those of LDAP or homed).
package: build
	@needs=$$(readelf --version-info build/left4d | grep -o 'GLIBC_2\.[0-9]*' | sort -V | tail -n 1); \
	if [[ $$(printf '%s\n' "$$needs" GLIBC_2.36 | sort -V | tail -n 1) != GLIBC_2.36 ]]; then \
		echo "left4d needs $$needs, and Debian 12 has GLIBC_2.36" >&2; exit 1; \
	fi
	packaging/build $(VERSION) $(ARCH) build dist

demo: package
	LEFT4_DEB=$(CURDIR)/$(DEB) go run ./test/demo

# Only root can boot machines. LEFT4_RING names the Debians to boot; without it those tests are skipped.
RINGS = LEFT4_RING=bookworm,trixie LEFT4_DEB=$(CURDIR)/$(DEB)
TESTS = go test -race -json -count=1 -parallel=2 -timeout=60m ./... | go run ./test/tally
test: lint package
ifeq ($(shell id -u),0)
	$(RINGS) $(TESTS)
else
	@echo "not root: the tests in booted machines are left out; sudo make test runs them"
	$(TESTS)
endif

# LEFT4_CHAOS_SEED, which it prints, gives the same verbs again.
LEFT4_CHAOS ?= 10000
chaos: package
	LEFT4_RING=trixie LEFT4_DEB=$(CURDIR)/$(DEB) LEFT4_CHAOS=$(LEFT4_CHAOS) go test -count=1 -timeout=60m -v ./test/ring -run '^TestChaos$$'

# The same tests as in make test, in their full form. The table is made also where a test has failed.
fault: package
	rm -f dist/fault.rows
	failed=0; $(RINGS) LEFT4_FULL=1 LEFT4_REPORT=$(CURDIR)/dist/fault.rows \
		go test -json -count=1 -parallel=2 -timeout=120m ./test/ring ./daemon/store -run '^TestFault' | go run ./test/tally || failed=$$?; \
	go run ./test/report/cmd/left4-report -table fault dist/fault.rows dist/fault.json; exit $$failed

abuse: package
	rm -f dist/abuse.rows
	failed=0; $(RINGS) LEFT4_FULL=1 LEFT4_REPORT=$(CURDIR)/dist/abuse.rows \
		go test -json -count=1 -parallel=1 -timeout=120m ./test/ring -run '^TestAbuse' | go run ./test/tally || failed=$$?; \
	go run ./test/report/cmd/left4-report -table abuse dist/abuse.rows dist/abuse.json; exit $$failed

BUILDERS = Builder|Workshop|Script|AbuseScript|EachFailureOfSteam|FailuresOfSteam|AHangOfSteam|AnInterruptedUpdate|UpdateWhileServersRun
builders: package
	rm -f dist/builders.rows
	failed=0; $(RINGS) LEFT4_FULL=1 LEFT4_REPORT=$(CURDIR)/dist/builders.rows \
		go test -json -count=1 -parallel=1 -timeout=120m ./test/ring -run '^Test($(BUILDERS))' | go run ./test/tally || failed=$$?; \
	go run ./test/report/cmd/left4-report -table builders dist/builders.rows dist/builders.json; exit $$failed

# A machine that does nothing else shows true figures.
bench: package
	rm -rf dist/bench.rows dist/plots
	mkdir -p dist/plots
	LEFT4_REPORT=$(CURDIR)/dist/bench.rows LEFT4_DEB=$(CURDIR)/$(DEB) go run ./test/bench -svg dist/plots
	go run ./test/report/cmd/left4-report dist/bench.rows dist/bench.json

# docs/RELIABILITY.md, docs/BUILDERS.md and docs/PERFORMANCE.md hold the tables and plots that were made last; what make vm has measured
# belongs to the first two.
tables:
	mkdir -p dist
	touch dist/vm.rows
	for table in fault:RELIABILITY abuse:RELIABILITY builders:BUILDERS; do \
		rows=dist/$${table%:*}.rows; [[ -e $$rows ]] || continue; \
		cat $$rows dist/vm.rows >dist/tables.rows; \
		go run ./test/report/cmd/left4-report -table $${table%:*} -doc docs/$${table#*:}.md dist/tables.rows dist/$${table%:*}.json; \
	done
	[[ ! -e dist/bench.rows ]] || go run ./test/report/cmd/left4-report -doc docs/PERFORMANCE.md dist/bench.rows dist/bench.json
	[[ ! -e dist/plots ]] || cp dist/plots/*.svg docs

# What took how long is part of what it prints. LEFT4_VM names the Debians to emulate; no KVM is needed.
vm: package
	test/deps vm
	rm -f dist/vm.rows
	LEFT4_VM=bookworm,trixie LEFT4_REPORT=$(CURDIR)/dist/vm.rows LEFT4_DEB=$(CURDIR)/$(DEB) go test -race -v -count=1 -parallel=2 -timeout=90m ./test/vm | \
		grep --line-buffered --invert-match '^=== '

lint: deps
	@unformatted=$$(gofmt -l client daemon dbus packaging polkit test units); \
	[[ -z $$unformatted ]] || { echo "gofmt would change: $$unformatted" >&2; exit 1; }
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.7.0 ./...

install: package
	dpkg-deb --fsys-tarfile $(DEB) | tar --extract --no-overwrite-dir --keep-directory-symlink --directory=$(DESTDIR)/

clean:
	rm -rf build dist
