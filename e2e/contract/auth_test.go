package contract

import (
	"encoding/base64"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
)

// Points 4 and 14, with authentication on: tokens pass, and a certificate's common name is taken for the user of whoever shows it to
// the member. That is Parallax where it speaks TLS itself, and the client where TLS is passed through.
func TestAuthentication(t *testing.T) {
	for _, version := range binary.AllEtcdVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ip := place(t)
			c := cluster.StartT(t, cluster.Options{Version: version, Size: 1, TLS: cluster.MutualTLS, AlsoFor: []string{ip}})
			direct := directly(c)
			ways := through(t, c, ip, []string{"http", "https", "unix", "passthrough"})
			alice, err := c.PKI.Issue("alice")
			if err != nil {
				t.Fatal(err)
			}
			asAlice, err := c.PKI.ClientTLS(alice)
			if err != nil {
				t.Fatal(err)
			}
			enable(t, direct, "alice", parallaxName)
			direct.tls = asAlice
			said := tokens(t, direct)
			user(t, direct, "alice", parallaxName)
			for _, p := range ways {
				if p.tls != nil {
					p.tls = asAlice.Clone()
				}
				if p.name == "passthrough" {
					user(t, p, "alice", parallaxName)
				} else {
					user(t, p, parallaxName, "alice")
				}
				said.compare(t, tokens(t, p))
			}
		})
	}
}

// password of every user.
const password = "secret"

// enable turns authentication on, with users who may read and write what is below their name.
func enable(t *testing.T, p *plumbing, users ...string) {
	t.Helper()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c := p.client(t)
	ctx := patient(t)
	for _, name := range users {
		must(c.UserAdd(ctx, name, password))
		must(c.RoleAdd(ctx, name))
		must(c.RoleGrantPermission(ctx, name, "/"+name+"/", "/"+name+"0", clientv3.PermissionType(clientv3.PermReadWrite)))
		must(c.UserGrantRole(ctx, name, name))
		must(c.Put(ctx, "/"+name+"/k", name))
	}
	must(c.UserAdd(ctx, cluster.ClientName, password))
	must(c.UserGrantRole(ctx, cluster.ClientName, "root"))
	must(c.AuthEnable(ctx))
}

// user checks whom the member takes the client for.
func user(t *testing.T, p *plumbing, is, isNot string) {
	t.Helper()
	c := p.client(t)
	if got, err := c.Get(patient(t), "/"+is+"/k"); err != nil || got.Count != 1 {
		t.Errorf("%s: the member does not take the client for %s: %v", p.name, is, err)
	}
	if _, err := c.Get(patient(t), "/"+isNot+"/k"); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("%s: the member takes the client for %s: %v", p.name, isNot, err)
	}
}

// tokens shows that a password is good for a token, whoever's certificate the member sees, and what is said of other tokens.
func tokens(t *testing.T, p *plumbing) *transcript {
	t.Helper()
	saw := new(transcript)
	c := p.client(t, func(config *clientv3.Config) { config.Username, config.Password = cluster.ClientName, password })
	for _, key := range []string{"/alice/k", "/" + parallaxName + "/k"} {
		got, err := c.Get(patient(t), key)
		if err != nil || got.Count != 1 {
			t.Errorf("%s: %s: %v", p.name, key, err)
			continue
		}
		saw.say("%s", got.Kvs[0].Value)
	}
	conn := p.grpc(t)
	kv := pb.NewKVClient(conn)
	auth, err := pb.NewAuthClient(conn).Authenticate(patient(t), &pb.AuthenticateRequest{Name: "alice", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	_, err = pb.NewAuthClient(conn).Authenticate(patient(t), &pb.AuthenticateRequest{Name: "alice", Password: "wrong"})
	saw.say("wrong password: %v", err)
	for _, c := range [][2]string{{"token", auth.Token}, {"token", "nonsense"}, {"authorization", auth.Token}, {"authorization", "nonsense"}} {
		_, err := kv.Range(metadata.AppendToOutgoingContext(patient(t), c[0], c[1]), &pb.RangeRequest{Key: []byte("/alice/k")})
		if right := c[1] == auth.Token; right && err != nil && c[0] == "token" || !right && err == nil {
			t.Errorf("%s: %s: %v", p.name, c[0], err)
		}
		saw.say("%s: %v", c[0], err)
	}
	web, base := p.web(t)
	request, err := http.NewRequestWithContext(patient(t), http.MethodPost, base+"/v3/kv/range", strings.NewReader(`{"key":"`+base64.StdEncoding.EncodeToString([]byte("/alice/k"))+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", auth.Token)
	resp, err := web.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	saw.say("%s %s", resp.Status, regexp.MustCompile(`"revision":"\d+"`).ReplaceAll(body, nil))
	return saw
}
