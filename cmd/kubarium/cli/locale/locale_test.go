package locale

import "testing"

func TestEnglishNeedsNoTranslations(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"C": true, "POSIX": true, "C.UTF-8": true, "en_GB.UTF-8": true, "de_DE.UTF-8": false, "zh_CN.UTF-8": false, "Cs_CZ": false} {
		if got := english(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}
