package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/units"
)

// clients reach the API and what files lie on. A file may lie anywhere, so the machine's own network is closed: who writes
// an item could else have a server of it asked.
type clients struct {
	dialer
	api, files *http.Client
}

const maxRedirects = 5

func newClients(o order.Workshop) (clients, error) {
	d := dialer{trusted: map[string]bool{}, private: true}
	api, err := d.check(o.API)
	if err != nil {
		return clients{}, fmt.Errorf("the API at %q: %w", short(o.API), err)
	}
	d.trusted[strings.ToLower(api.Hostname())] = true
	d.private = o.Private
	transport := &http.Transport{
		DialContext: d.dial,
		// What was compressed on its way has another length.
		DisableCompression:    true,
		ForceAttemptHTTP2:     true,
		IdleConnTimeout:       time.Minute,
		MaxIdleConnsPerHost:   maxParallel,
		ResponseHeaderTimeout: time.Minute,
		TLSHandshakeTimeout:   30 * time.Second,
	}
	if o.Proxy != "" {
		proxy, err := url.Parse(o.Proxy)
		if err != nil || proxy.Hostname() == "" || proxy.Scheme != "http" && proxy.Scheme != "https" && proxy.Scheme != "socks5" {
			// With its text a password might come out.
			return clients{}, errors.New("the proxy is no http, https or socks5 URL")
		}
		d.trusted[strings.ToLower(proxy.Hostname())] = true
		transport.Proxy = http.ProxyURL(proxy)
	}
	return clients{
		dialer: d,
		// A POST that is redirected would become a GET of something else.
		api:   &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		files: &http.Client{Transport: transport, CheckRedirect: d.checkRedirect},
	}, nil
}

// errRefused is what no further try changes.
var errRefused = errors.New("not allowed")

// dialer keeps to the public internet, and to what the machine's operator named. It looks at the address that is
// connected to, so no name can lead elsewhere.
type dialer struct {
	trusted map[string]bool // hosts
	private bool
}

// check reads an address that something is to be asked of.
func (d dialer) check(text string) (*url.URL, error) {
	if len(text) > maxPath {
		return nil, fmt.Errorf("it has more than %d bytes", maxPath)
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("it is no URL")
	}
	return u, d.checkURL(u)
}

func (d dialer) checkURL(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("scheme %q is %w: use http or https", short(u.Scheme), errRefused)
	case u.Hostname() == "":
		return errors.New("it names no host")
	case u.User != nil:
		return fmt.Errorf("a user in it is %w", errRefused)
	}
	// A proxy that connects to it is not kept from it by dial.
	if to, err := netip.ParseAddr(u.Hostname()); err == nil && !d.trusts(u.Hostname()) {
		return d.checkAddr(to)
	}
	return nil
}

func (d dialer) trusts(host string) bool { return d.private || d.trusted[strings.ToLower(host)] }

func (dialer) checkAddr(to netip.Addr) error {
	if !units.IsPublic(to) {
		return fmt.Errorf("%s is no address of the internet, which is %w", to, errRefused)
	}
	return nil
}

func (d dialer) checkRedirect(req *http.Request, via []*http.Request) error {
	switch err := d.checkURL(req.URL); {
	case err != nil:
		return fmt.Errorf("a redirect to %q is %w: %v", short(req.URL.String()), errRefused, err)
	case via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("a redirect from https to http is %w", errRefused)
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects are %w", maxRedirects, errRefused)
	}
	return nil
}

func (d dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	dial := net.Dialer{Timeout: 30 * time.Second}
	if !d.trusts(host) {
		dial.Control = func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return d.checkAddr(to.Addr())
		}
	}
	return dial.DialContext(ctx, network, address)
}

// netError is an error of the network in fewer words, and final where no further try helps.
func netError(err error) error {
	var at *url.Error
	for errors.As(err, &at) {
		err = at.Err // without the address, which is long
	}
	if err == io.EOF {
		return errors.New("the connection was closed")
	}
	var cert *tls.CertificateVerificationError
	if errors.Is(err, errRefused) || errors.As(err, &cert) {
		return backoff.Permanent(err)
	}
	return err
}
