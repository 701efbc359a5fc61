// Package locale keeps kubectl's translations from being read where they would change nothing. kubectl asks for its first
// translated word while its packages are initialised, and reading the catalogue of English, which maps every sentence to itself,
// takes 29 of the 60 ms that any command of kubarium takes to start. The package has to be initialised before those: it imports
// nothing but the translator, and Go initialises what is ready in the order of the import paths.
package locale

import (
	"os"
	"strings"

	"k8s.io/kubectl/pkg/util/i18n"
)

// Early tells whether this package came before the first word. If it did not, all is as in kubectl: only time is lost.
var Early = i18n.SetLoadTranslationsFunc(load) == nil

// load reads the translations of the user's language if it is not English.
func load() error {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if value := os.Getenv(name); value != "" {
			if english(value) {
				return nil
			}
			return i18n.LoadTranslations("kubectl", nil)
		}
	}
	return nil
}

// english tells whether a locale's name, such as de_DE.UTF-8, leads to English sentences.
func english(name string) bool {
	return name == "C" || name == "POSIX" || strings.HasPrefix(name, "C.") || strings.HasPrefix(name, "en")
}
