package ingress

import (
	"crypto/md5"  //nolint:gosec // what htpasswd writes by default
	"crypto/sha1" //nolint:gosec // what htpasswd -s writes
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

const (
	apr1Prefix = "$apr1$"
	shaPrefix  = "{SHA}"
)

func knownHash(hash string) bool {
	return strings.HasPrefix(hash, apr1Prefix) || strings.HasPrefix(hash, shaPrefix) || isBcrypt(hash)
}

// isBcrypt tells what htpasswd -B writes.
func isBcrypt(hash string) bool {
	_, err := bcrypt.Cost([]byte(hash))
	return err == nil
}

// allows tells whether an Authorization field names a user with the right password.
func (a *Auth) allows(field string) bool {
	scheme, encoded, _ := strings.Cut(field, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return false
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return false
	}
	user, password, _ := strings.Cut(string(raw), ":")
	want, ok := a.Users[user]
	if !ok {
		return false
	}
	// A hash may cost milliseconds by design: a password that was right is known again by a cheap one.
	sum := sha256.Sum256([]byte(want + "\x00" + password))
	if known, ok := a.proven.Load(user); ok && subtle.ConstantTimeCompare(known.([]byte), sum[:]) == 1 {
		return true
	}
	if !verify(want, password) {
		return false
	}
	a.proven.Store(user, sum[:])
	return true
}

func verify(want, password string) bool {
	got := ""
	switch {
	case strings.HasPrefix(want, shaPrefix):
		sum := sha1.Sum([]byte(password)) //nolint:gosec // see above
		got = shaPrefix + base64.StdEncoding.EncodeToString(sum[:])
	case strings.HasPrefix(want, apr1Prefix):
		salt, _, _ := strings.Cut(want[len(apr1Prefix):], "$")
		got = apr1(password, salt)
	default:
		return bcrypt.CompareHashAndPassword([]byte(want), []byte(password)) == nil
	}
	return subtle.ConstantTimeCompare([]byte(got), []byte(want)) == 1
}

// apr1 is Apache's variant of the MD5 crypt.
func apr1(password, salt string) string {
	if len(salt) > 8 {
		salt = salt[:8]
	}
	p, s := []byte(password), []byte(salt)
	inner := md5.Sum([]byte(password + salt + password)) //nolint:gosec // see above
	text := []byte(password + apr1Prefix + salt)
	for left := len(p); left > 0; left -= 16 {
		text = append(text, inner[:min(left, 16)]...)
	}
	for n := len(p); n > 0; n >>= 1 {
		if n&1 == 1 {
			text = append(text, 0)
		} else {
			text = append(text, p[0])
		}
	}
	sum := md5.Sum(text) //nolint:gosec // see above
	for round := range 1000 {
		sum = apr1Round(round, sum, p, s)
	}
	return apr1Prefix + salt + "$" + apr1Text(sum)
}

func apr1Round(round int, sum [16]byte, password, salt []byte) [16]byte {
	var text []byte
	add := func(odd bool) {
		if odd {
			text = append(text, password...)
		} else {
			text = append(text, sum[:]...)
		}
	}
	add(round&1 == 1)
	if round%3 != 0 {
		text = append(text, salt...)
	}
	if round%7 != 0 {
		text = append(text, password...)
	}
	add(round&1 == 0)
	return md5.Sum(text) //nolint:gosec // see above
}

func apr1Text(sum [16]byte) string {
	const alphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var out []byte
	put := func(a, b, c byte, n int) {
		v := uint(a)<<16 | uint(b)<<8 | uint(c)
		for range n {
			out = append(out, alphabet[v&63])
			v >>= 6
		}
	}
	for _, i := range [][3]int{{0, 6, 12}, {1, 7, 13}, {2, 8, 14}, {3, 9, 15}, {4, 10, 5}} {
		put(sum[i[0]], sum[i[1]], sum[i[2]], 4)
	}
	put(0, 0, sum[11], 2)
	return string(out)
}
