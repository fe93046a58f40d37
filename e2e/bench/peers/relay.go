package peers

import (
	"crypto/tls"
	"io"
	"net"
)

// relay is the blind one: two copies per connection. Between plain TCP
// connections io.Copy splices in the kernel; with TLS it has a buffer of 32 KiB
// per direction, from the first byte to the last.
func relay(o options) error {
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	dial := func() (net.Conn, error) { return net.Dial("tcp", o.member) }
	if o.tls() {
		server, err := o.serverTLS()
		if err != nil {
			return err
		}
		client, err := o.clientTLS()
		if err != nil {
			return err
		}
		listener = tls.NewListener(listener, server)
		dial = func() (net.Conn, error) { return tls.Dial("tcp", o.member, client) }
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer client.Close()
			member, err := dial()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(member, client)
				member.Close() // ends the other copy
			}()
			_, _ = io.Copy(client, member)
			member.Close()
		}()
	}
}
