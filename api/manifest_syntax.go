package api

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// maxBlameLines bounds the search for the line a syntax error is on: it parses the text once for every line.
const maxBlameLines = 500

// syntaxError words what the YAML parser said. The parser names the line where the surrounding block begins, or none: the
// line to blame is the one after the longest beginning of the text that is good YAML.
func syntaxError(data []byte, file string, err error) error {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = message[len(m[0]):]
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	if len(lines) <= maxBlameLines {
		line = blame(lines)
	}
	if line > 0 && line <= len(lines) {
		if h := syntaxHint(string(lines[line-1]), message); h != "" {
			message += " (" + h + ")"
		}
	}
	return &ManifestError{File: file, Line: line, Message: message}
}

// blame finds the first line with which the text is no longer YAML, whatever follows.
func blame(lines [][]byte) int {
	for n := len(lines) - 1; n > 0; n-- {
		if parses(bytes.Join(lines[:n], nil)) {
			return n + 1
		}
	}
	return 1
}

func parses(data []byte) bool {
	for decoder := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc yaml.Node
		if err := decoder.Decode(&doc); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

// syntaxHint names the usual cause of an error on a line.
func syntaxHint(line, message string) string {
	text := strings.TrimSpace(line)
	indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	switch {
	case strings.Contains(indent, "\t"):
		return "a tab indents this line; YAML takes spaces only"
	case strings.Contains(text, "{{"):
		return "this looks like a template, not like YAML"
	case strings.HasPrefix(message, "mapping values are not allowed"):
		return "check the indentation, or quote a value with a colon in it"
	case strings.HasPrefix(message, "did not find expected key"), strings.HasPrefix(message, "did not find expected '-' indicator"):
		return "check the indentation"
	}
	return ""
}
