package ingress

// tokens are the octets of a field's name or a method (RFC 9110, 5.6.2).
var tokens = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

func validName[T string | []byte](name T) bool {
	for i := 0; i < len(name); i++ {
		if !tokens[name[i]] {
			return false
		}
	}
	return len(name) > 0
}

// validValue allows what a field's value may hold: no control characters but the tab.
func validValue[T string | []byte](value T) bool {
	for i := 0; i < len(value); i++ {
		if c := value[i]; (c < ' ' && c != '\t') || c == 0x7f {
			return false
		}
	}
	return true
}
