package rows

import (
	"fmt"

	"github.com/etcd-parallax/parallax/e2e/internal/process"
)

const nginxProgram = "nginx"

// nginxConfig: nginx ends a connection after 1,000 requests, and a call that is
// silent for a minute, unless told otherwise.
const nginxConfig = `user root;
daemon off;
worker_processes %[1]d;
worker_rlimit_nofile 16384;
error_log stderr error;
pid %[2]s/pid;
events { worker_connections 8192; }
http {
  access_log off;
  client_body_temp_path %[2]s/body;
  proxy_temp_path %[2]s/proxy;
  fastcgi_temp_path %[2]s/fastcgi;
  uwsgi_temp_path %[2]s/uwsgi;
  scgi_temp_path %[2]s/scgi;
  upstream member {
    server %[3]s;
    keepalive 256;
    keepalive_requests 1000000000;
    keepalive_time 1d;
    keepalive_timeout 1d;
  }
  server {
    listen %[4]s;
    http2_max_concurrent_streams 4096;
    keepalive_requests 1000000000;
    keepalive_time 1d;
    keepalive_timeout 1d;
    client_max_body_size 0;
    client_body_timeout 1d;
    send_timeout 1d;
    grpc_read_timeout 1d;
    grpc_send_timeout 1d;
    grpc_buffer_size 64k;
%[5]s    location / { grpc_pass %[6]s://member; }
  }
}
`

func nginx(s Site, p place) (process.Spec, error) {
	listen, scheme, certs := p.listen+" http2", "grpc", ""
	if s.TLS != nil {
		listen, scheme = p.listen+" ssl http2", "grpcs"
		certs = fmt.Sprintf("    ssl_certificate %s;\n    ssl_certificate_key %s;\n    ssl_protocols TLSv1.2 TLSv1.3;\n"+
			"    grpc_ssl_protocols TLSv1.2 TLSv1.3;\n    grpc_ssl_trusted_certificate %s;\n    grpc_ssl_verify on;\n    grpc_ssl_name %s;\n",
			s.TLS.Cert, s.TLS.Key, s.TLS.CA, MemberName)
	}
	config, err := p.config("nginx.conf", fmt.Sprintf(nginxConfig, s.Threads, p.dir, p.member, listen, certs, scheme))
	return process.Spec{Path: Path(nginxProgram), Args: []string{"-c", config, "-e", "stderr"}}, err
}

// MemberName is also in the certificate, since nginx compares names, and no addresses.
const MemberName = "member.bench"
