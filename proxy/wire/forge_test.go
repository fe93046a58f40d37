package wire

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// The types of records and handshake messages that the tests forge.
const (
	alertRecord     = 21
	handshakeRecord = 22
	dataRecord      = 23
	keyUpdate       = 24
)

// forger is a TLS 1.3 client that speaks records itself after an honest handshake, to say what crypto/tls never does.
type forger struct {
	conn    net.Conn
	out, in half
}

type half struct {
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// forge returns our side, a server, and the forger.
func forge(tb testing.TB, b *Buffers) (*Conn, *forger) {
	tb.Helper()
	_, _, server, client := certificate(tb)
	c, p := sockets(tb, "tcp")
	var secrets bytes.Buffer
	client.KeyLogWriter = &secrets
	ours, peer := kind{version: tls.VersionTLS13}.secure(tb, b, c, p, server, client)
	if suite := peer.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		tb.Skip("the forger cannot do", tls.CipherSuiteName(suite), "(crypto/tls has no AES in hardware here)")
	}
	f := &forger{conn: p}
	for line := range strings.Lines(secrets.String()) {
		words := strings.Fields(line)
		secret, err := hex.DecodeString(words[2])
		if err != nil {
			tb.Fatal(err)
		}
		switch words[0] {
		case "CLIENT_TRAFFIC_SECRET_0":
			f.out.set(secret)
		case "SERVER_TRAFFIC_SECRET_0":
			f.in.set(secret)
		}
	}
	return ours, f
}

// set is RFC 8446, 7.3.
func (h *half) set(secret []byte) {
	block, err := aes.NewCipher(expand(secret, "key", 16))
	if err != nil {
		panic(err)
	}
	if h.aead, err = cipher.NewGCM(block); err != nil {
		panic(err)
	}
	h.secret, h.iv, h.seq = secret, expand(secret, "iv", 12), 0
}

func (h *half) update() { h.set(expand(h.secret, "traffic upd", 32)) }

func expand(secret []byte, label string, size int) []byte {
	label = "tls13 " + label
	info := fmt.Sprintf("%c%c%c%s%c", 0, byte(size), byte(len(label)), label, 0)
	key, err := hkdf.Expand(sha256.New, secret, info, size)
	if err != nil {
		panic(err)
	}
	return key
}

func (h *half) nonce() []byte {
	nonce := bytes.Clone(h.iv)
	for i, b := range binary.BigEndian.AppendUint64(nil, h.seq) {
		nonce[4+i] ^= b
	}
	h.seq++
	return nonce
}

// record of a type, sealed.
func (f *forger) record(typ byte, data ...byte) []byte {
	inner := append(bytes.Clone(data), typ)
	header := binary.BigEndian.AppendUint16([]byte{dataRecord, 3, 3}, uint16(len(inner)+16))
	return append(header, f.out.aead.Seal(nil, f.out.nonce(), inner, header)...)
}

// requestKeyUpdate is the message, and the keys after it.
func (f *forger) requestKeyUpdate() []byte {
	b := f.record(handshakeRecord, keyUpdate, 0, 0, 1, 1)
	f.out.update()
	return b
}

// send one segment.
func (f *forger) send(tb testing.TB, segments ...[]byte) {
	tb.Helper()
	if _, err := f.conn.Write(bytes.Join(segments, nil)); err != nil {
		tb.Fatal(err)
	}
}

// next opens the next record that our side has sent, and follows its key updates.
func (f *forger) next() (typ byte, data []byte, err error) {
	header := make([]byte, 5)
	if _, err := io.ReadFull(f.conn, header); err != nil {
		return 0, nil, err
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(f.conn, body); err != nil {
		return 0, nil, err
	}
	inner, err := f.in.aead.Open(nil, f.in.nonce(), body, header)
	if err != nil {
		return 0, nil, err
	}
	inner = bytes.TrimRight(inner, "\x00")
	typ, data = inner[len(inner)-1], inner[:len(inner)-1]
	if typ == handshakeRecord && data[0] == keyUpdate {
		f.in.update()
	}
	return typ, data, nil
}

// data reads n bytes of data, and counts the key updates on the way.
func (f *forger) data(n int) (got []byte, updates int, err error) {
	for len(got) < n {
		typ, data, err := f.next()
		switch {
		case err != nil:
			return got, updates, err
		case typ == dataRecord:
			got = append(got, data...)
		case typ == handshakeRecord && data[0] == keyUpdate:
			updates++
		case typ == alertRecord:
			return got, updates, errors.New("an alert")
		}
	}
	return got, updates, nil
}
