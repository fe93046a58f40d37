package member

import "time"

// Hasten counts the times of the Set in something shorter than seconds.
func (s *Set) Hasten(second time.Duration) { s.second = second }

// BetweenLogins is for tests that count the logins of a link.
const BetweenLogins = betweenLogins
