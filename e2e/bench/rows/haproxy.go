package rows

import (
	"fmt"

	"github.com/etcd-parallax/parallax/e2e/internal/process"
)

const haproxyProgram = "haproxy"

// haproxyConfig is for both modes. Time limits end long watches, and are out of
// the way. What a mode adds was tried, and is there because it is better so.
const haproxyConfig = `global
  nbthread %[1]d
  maxconn 3000
%[2]s
defaults
  timeout connect 5s
  timeout client 1d
  timeout server 1d
  timeout tunnel 1d
%[3]s
frontend clients
  bind %[4]s
  default_backend members
backend members
  server member %[5]s
`

// haproxyMode is what differs between the modes.
type haproxyMode struct{ global, defaults, plain string }

var (
	haproxyTCP = haproxyMode{defaults: "  mode tcp\n  option splice-auto\n"}

	// The default of 16 KiB makes lists half as fast again as dear. Larger windows (tune.h2.initial-window-size)
	// and http-reuse always or never were tried: no cheaper, and more lists end before their trailers.
	haproxyHTTP = haproxyMode{
		global:   "  tune.bufsize 65536\n",
		defaults: "  mode http\n  option http-no-delay\n",
		plain:    " proto h2",
	}
)

func haproxy(mode haproxyMode) func(Site, place) (process.Spec, error) {
	return func(s Site, p place) (process.Spec, error) {
		bind, server := p.listen+mode.plain, p.member+mode.plain
		if s.TLS != nil {
			bind = fmt.Sprintf("%s ssl crt %s alpn h2", p.listen, s.TLS.CertAndKey)
			server = fmt.Sprintf("%s ssl verify required ca-file %s alpn h2", p.member, s.TLS.CA)
		}
		config, err := p.config("haproxy.cfg", fmt.Sprintf(haproxyConfig, s.Threads, mode.global, mode.defaults, bind, server))
		return process.Spec{Path: Path(haproxyProgram), Args: []string{"-db", "-f", config}}, err
	}
}
