package member

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Login is the etcd user as whom the members are asked where their
// authentication is on. It needs READ on the whole key space. Status and
// MemberList take any user (tried on 3.5.35, 3.6.16 and 3.7.3); in 3.4.42–45,
// 3.5.28–31 and 3.6.0–11 Status wants root, and without it a member is not
// compared.
type Login struct {
	User         string
	PasswordFile string // read at each Authenticate, so that the password can be changed; one line

	loose sync.Once // said that others may read the file
}

// An Authenticate costs the member a bcrypt (it took 90 to 150 ms, right or wrong),
// and one that succeeds appends an entry to the raft log.
const (
	betweenLogins   = time.Second      // per link at least
	betweenRefusals = 30 * time.Second // … at most; doubled from betweenLogins while the member refuses
	loginTimeout    = 5 * time.Second  // etcd's own for a request; a busy member needs more than a probe has
	longestPassword = 4096
)

// session is the login of one link. A simple token lives in one member's memory
// and dies with it, or after 5 min without use; a JWT expires.
type session struct {
	login  *Login // nil: none
	warn   func(msg string, args ...any)
	denied func() // called when a read is refused
	guard  func(func())

	token   atomic.Pointer[string] // nil: none
	problem atomic.Pointer[string] // why there is none

	open context.Context // until close
	end  context.CancelFunc

	turn  chan struct{} // guards what follows: one Authenticate at a time
	last  time.Time     // Authenticate was sent
	pause time.Duration // until the next
}

func (s *Set) newSession() *session {
	u := &session{login: s.Login, warn: func(string, ...any) {}, guard: s.guard, turn: make(chan struct{}, 1)}
	u.open, u.end = context.WithCancel(context.Background())
	if s.Logger != nil {
		u.warn = s.Logger.Warn
	}
	u.denied = func() {
		s.denied.Do(func() {
			u.warn("a member refuses shadow reads for want of permission; checks of such keys are inconclusive: grant the shadow's user READ on all keys")
		})
	}
	return u
}

// intercept adds the token to a call. Where the member refuses the call for want
// of a user, it logs in and calls once more.
//
// GUARANTEE G4: Authenticate is sent only then, and only with a Login.
func (u *session) intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, ok := req.(*pb.AuthenticateRequest); ok {
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	token := u.token.Load()
	err := invoke(carrying(ctx, token), method, req, reply, conn, opts...)
	if u.login != nil && wantsUser(err, token) {
		if fresh, ok := u.renew(ctx, conn, token); ok {
			err = invoke(carrying(ctx, fresh), method, req, reply, conn, opts...)
		}
	}
	if _, read := req.(*pb.RangeRequest); read && status.Code(err) == codes.PermissionDenied {
		u.denied()
	}
	return err
}

func carrying(ctx context.Context, token *string) context.Context {
	if token == nil {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, *token)
}

// wantsUser tells whether another token may be the answer to a refusal.
func wantsUser(err error, token *string) bool {
	switch status.Code(err) {
	case codes.OK:
		return false
	case codes.Unauthenticated:
		return true
	case codes.PermissionDenied:
		return token == nil // asked as the CN of the certificate, who may not
	}
	return is(err, rpctypes.ErrGRPCUserEmpty) || is(err, rpctypes.ErrGRPCAuthOldRevision)
}

// is compares as etcd's own client does: by message.
func is(err, known error) bool { return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(known) }

// close awaits a login that is under way, and keeps the turn: there is no other.
func (u *session) close() {
	u.end()
	u.turn <- struct{}{}
}

// renew replaces the token that a member refused; nil is none. ok tells whether
// there is another than that. A login may take longer than the call that wants
// it has time; then a later one finds its token.
func (u *session) renew(ctx context.Context, conn *grpc.ClientConn, refused *string) (token *string, ok bool) {
	select {
	case u.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, false
	case <-u.open.Done():
		return nil, false
	}
	another := u.token.Load() != refused // another call was faster
	if another || !u.last.IsZero() && time.Since(u.last) < u.pause {
		<-u.turn
		return u.token.Load(), another
	}
	done := make(chan struct{})
	go func() { // until it is done, or the session closed
		defer close(done)
		defer func() { <-u.turn }()
		u.guard(func() { u.logIn(conn) })
	}()
	select {
	case <-done:
		token = u.token.Load()
		return token, token != refused
	case <-ctx.Done():
		return nil, false
	}
}

func (u *session) logIn(conn *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(u.open, loginTimeout)
	defer cancel()
	token, err := u.authenticate(ctx, conn)
	if err != nil {
		text := err.Error()
		u.problem.Store(&text)
		return
	}
	u.token.Store(token)
	u.problem.Store(nil)
}

func (u *session) authenticate(ctx context.Context, conn *grpc.ClientConn) (*string, error) {
	password, err := u.login.password(u.warn)
	if err != nil {
		return nil, err
	}
	u.last = time.Now()
	resp, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: u.login.User, Password: password})
	switch {
	case err == nil:
		u.pause = betweenLogins
		token := resp.GetToken()
		return &token, nil
	case is(err, rpctypes.ErrGRPCAuthNotEnabled): // by now
		u.pause = betweenLogins
		return nil, nil
	case silent(err):
		u.pause = betweenLogins
	default:
		u.pause = min(max(2*u.pause, betweenLogins), betweenRefusals)
	}
	return nil, fmt.Errorf("cannot log in as %s: %s", u.login.User, status.Convert(err).Message())
}

// password reads the file. GUARANTEE G8: neither it nor the token is ever part of
// an error or a log line.
func (l *Login) password(warn func(string, ...any)) (string, error) {
	failed := func(why string) (string, error) {
		return "", fmt.Errorf("cannot log in as %s: password file %s: %s", l.User, l.PasswordFile, why)
	}
	info, err := os.Stat(l.PasswordFile)
	if err != nil {
		return failed(reason(err))
	}
	if !info.Mode().IsRegular() {
		return failed("not a regular file")
	}
	f, err := os.Open(l.PasswordFile)
	if err != nil {
		return failed(reason(err))
	}
	defer f.Close()
	if info.Mode().Perm()&^0o600 != 0 {
		l.loose.Do(func() {
			warn("others may read the password file: set its mode to 0600", "file", l.PasswordFile, "mode", info.Mode().Perm().String())
		})
	}
	b, err := io.ReadAll(io.LimitReader(f, longestPassword+1))
	if err != nil {
		return failed(reason(err))
	}
	password := strings.TrimRight(string(b), "\r\n")
	switch {
	case password == "":
		return failed("is empty")
	case len(b) > longestPassword:
		return failed(fmt.Sprintf("longer than %d bytes", longestPassword))
	}
	return password, nil
}

// reason of a file error, without the path, which the message has already.
func reason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// refusal words an error of the member itself for the log.
func (u *session) refusal(err error) string {
	text := "refuses Status: " + status.Convert(err).Message()
	switch {
	case u.login == nil && wantsUser(err, nil):
		return text + ": etcd's authentication is on, give the shadow a user (--shadow-user, --shadow-password-file)"
	case status.Code(err) == codes.PermissionDenied:
		return text + ": this version of etcd wants the root role for it; the member is not compared"
	}
	return text
}
