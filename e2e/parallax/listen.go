package parallax

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/etcd-parallax/parallax/e2e/internal/loopback"
)

// The ports need not differ between processes: each has its own address.
const clientPort, adminPort, securePort, passthroughPort = 23790, 23791, 23792, 23793

// listeners are the addresses of one Parallax.
type listeners struct {
	admin string
	at    map[string]string // by scheme, as --listen-client-urls takes it
	dir   string            // of the socket, if there is one
}

func newListeners(opts Options) (*listeners, error) {
	ip := opts.IP
	if ip == "" {
		var err error
		if ip, err = loopback.Address(clientPort, adminPort, securePort, passthroughPort); err != nil {
			return nil, err
		}
	}
	l := &listeners{admin: loopback.URL("http", ip, adminPort), at: make(map[string]string)}
	for _, scheme := range opts.Listen {
		switch scheme {
		case "http":
			l.at[scheme] = loopback.URL(scheme, ip, clientPort)
		case "https":
			l.at[scheme] = loopback.URL(scheme, ip, securePort)
		case "passthrough":
			l.at[scheme] = loopback.URL(scheme, ip, passthroughPort)
		case "unix":
			// Not in a test's own folder: the path of a socket has at most 107 bytes.
			dir, err := os.MkdirTemp("", "parallax-")
			if err != nil {
				return nil, err
			}
			l.dir = dir
			l.at[scheme] = "unix://" + filepath.Join(dir, "client.sock")
		default:
			return nil, fmt.Errorf("listen %q: there are http, https, unix and passthrough", scheme)
		}
	}
	return l, nil
}

func (l *listeners) urls(schemes []string) (urls []string) {
	for _, scheme := range schemes {
		urls = append(urls, l.at[scheme])
	}
	return urls
}

func (l *listeners) close() error {
	if l == nil || l.dir == "" {
		return nil
	}
	return os.RemoveAll(l.dir)
}

// URL is what a client is given to come through the listener of a scheme: to it,
// a passthrough listener is one of https.
func (p *Process) URL(scheme string) string {
	url := p.listen.at[scheme]
	if scheme == "passthrough" {
		return "https" + url[len(scheme):]
	}
	return url
}
