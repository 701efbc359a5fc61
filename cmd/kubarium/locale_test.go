package main

import (
	"testing"

	"kubarium.dev/cmd/kubarium/cli/locale"
)

// Whoever speaks English does not wait for translations: locale was initialised before kubectl asked for its first word.
func TestTranslationsAreReadOnlyWhenTheyAreNeeded(t *testing.T) {
	t.Parallel()
	if !locale.Early {
		t.Error("kubectl read its translations before kubarium.dev/cmd/kubarium/cli/locale was initialised")
	}
}
