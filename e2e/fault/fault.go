// Package fault makes members of an etcd cluster differ.
//
// Its edits change the database of a *stopped* member, m.DB() of package
// cluster. Stop it with Stop, not Kill: only then is all that it applied in the
// database. Each edit is the one fault that its name says: the member starts
// again, without complaint, at an unchanged revision unless said otherwise.
// Txn18667 needs no edit at all.
package fault

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// ChangeValue gives the newest record of an existing key another value.
func ChangeValue(db, key, value string) error {
	return changeLive(db, key, func(kv *mvccpb.KeyValue) { kv.Value = []byte(value) })
}

// ChangeLease gives the newest record of an existing key another lease, 0 for
// none. The lease need not exist: etcd logs that and starts.
func ChangeLease(db, key string, lease int64) error {
	return changeLive(db, key, func(kv *mvccpb.KeyValue) { kv.Lease = lease })
}

func changeLive(db, key string, change func(*mvccpb.KeyValue)) error {
	return editKeys(db, func(s *store) error {
		r, err := s.live(key)
		if err != nil {
			return err
		}
		change(r.kv)
		return s.put(r)
	})
}

// DeleteKey removes all records of a key, as if it had never been written. The
// newest write of the member must be to another key.
func DeleteKey(db, key string) error {
	return editKeys(db, func(s *store) error {
		gone := s.of(key)
		if len(gone) == 0 {
			return fmt.Errorf("key %q has no record", key)
		}
		return s.remove(gone)
	})
}

// GhostKey adds a key that no client wrote: an operation more in the newest
// transaction of the member.
func GhostKey(db, key, value string) error {
	return editKeys(db, func(s *store) error {
		if len(s.of(key)) != 0 {
			return fmt.Errorf("key %q has records already, it would be no ghost", key)
		}
		at := s.newest().revision
		return s.put(record{
			revision{main: at.main, sub: at.sub + 1},
			&mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), CreateRevision: at.main, ModRevision: at.main, Version: 1},
		})
	})
}

// DeleteTombstone removes the newest deletion of a key: it is there again, as
// before. The newest write of the member must be to another key.
func DeleteTombstone(db, key string) error {
	return editKeys(db, func(s *store) error {
		all := s.of(key)
		if len(all) == 0 || !all[len(all)-1].tombstone {
			return fmt.Errorf("key %q is not deleted", key)
		}
		if len(all) == 1 {
			return fmt.Errorf("key %q has only a tombstone left, the rest was compacted: it would not come back", key)
		}
		return s.remove(all[len(all)-1:])
	})
}

// DropNewest removes the newest revision, which it returns: after its start the
// member's revision is lower, and every later write there has a lower mod_revision.
func DropNewest(db string) (dropped int64, err error) {
	err = editKeys(db, func(s *store) error {
		dropped = s.newest().main
		var gone []record
		for _, r := range s.records {
			if r.main == dropped {
				gone = append(gone, r)
			}
		}
		if len(gone) == len(s.records) {
			return fmt.Errorf("revision %d is the only one", dropped)
		}
		return s.delete(gone)
	})
	return dropped, err
}

// ShiftConsistentIndex moves what the member believes to have applied by n
// entries, and returns the new index. With n > 0 it skips as many entries that
// the cluster commits meanwhile (the signature of etcd issue 13766; at least n
// of them are needed before it starts), with n < 0 it applies entries twice
// (14685; not below the newest snapshot of its WAL).
func ShiftConsistentIndex(db string, n int64) (index uint64, err error) {
	err = editDB(db, func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(metaBucket)
		if bucket == nil {
			return fmt.Errorf("no bucket %q: is it the database of an etcd member", metaBucket)
		}
		field := bucket.Get(consistentIndexField)
		if len(field) != 8 {
			return fmt.Errorf("%s is %x, want 8 bytes", consistentIndexField, field)
		}
		shifted := int64(binary.BigEndian.Uint64(field)) + n
		if shifted <= 0 {
			return fmt.Errorf("consistent index would be %d", shifted)
		}
		index = uint64(shifted)
		return bucket.Put(consistentIndexField, binary.BigEndian.AppendUint64(nil, index))
	})
	return index, err
}

// DeleteLease removes a lease, and not the keys that were written with it: they
// stay when the lease ends.
func DeleteLease(db string, lease int64) error {
	return editDB(db, func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(leaseBucket)
		if bucket == nil {
			return fmt.Errorf("no bucket %q: is it the database of an etcd member", leaseBucket)
		}
		id := binary.BigEndian.AppendUint64(nil, uint64(lease))
		if bucket.Get(id) == nil {
			return fmt.Errorf("there is no lease %x", lease)
		}
		return bucket.Delete(id)
	})
}
