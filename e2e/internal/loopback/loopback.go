// Package loopback picks addresses on which test processes can listen side by
// side. Linux routes all of 127.0.0.0/8 to the loopback interface.
package loopback

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// attempts bounds the search. One in 2^24 addresses is taken per cluster, so a
// second attempt already means that something listens on 0.0.0.0.
const attempts = 32

// Address returns a random address of 127.0.0.0/8 (never 127.0.0.1, where other
// programs live) on which all of ports are free now. Nothing reserves it
// afterwards: whoever starts a process there retries when its bind fails.
func Address(ports ...int) (string, error) {
	var last error
	for range attempts {
		ip := net.IPv4(127, byte(1+rand.IntN(254)), byte(rand.IntN(256)), byte(1+rand.IntN(254))).String()
		if last = free(ip, ports); last == nil {
			return ip, nil
		}
	}
	return "", fmt.Errorf("no loopback address with ports %v free after %d attempts: %w", ports, attempts, last)
}

// URL returns scheme://ip:port.
func URL(scheme, ip string, port int) string {
	return scheme + "://" + net.JoinHostPort(ip, strconv.Itoa(port))
}

func free(ip string, ports []int) error {
	for _, port := range ports {
		listener, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		if err := listener.Close(); err != nil {
			return err
		}
	}
	return nil
}
