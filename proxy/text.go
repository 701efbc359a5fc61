package proxy

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Protocol names as nft prints them.
var protoNames = map[uint8]string{protoTCP: "tcp", protoUDP: "udp", protoSCTP: "sctp"}

// text prints the packed parts of a key or value.
func unpackText(s string, fields []field) string {
	addresses := 0
	for _, f := range fields {
		if f == fieldAddr {
			addresses++
		}
	}
	parts := make([]string, len(fields))
	for i, f := range fields {
		size := 4
		switch f {
		case fieldAddr: // what the others leave is addresses, of either family
			size = (len(s) - 4*(len(fields)-i-addresses)) / addresses
			addresses--
			parts[i] = unpackAddr(s[:size]).String()
		case fieldPort:
			parts[i] = strconv.Itoa(int(unpackPort(s)))
		case fieldMark:
			parts[i] = fmt.Sprintf("0x%08x", unpackMark(s, 0))
		case fieldProto:
			parts[i] = protoNames[s[0]]
		case fieldClass:
			parts[i] = classid(int(unpackMark(s, 0)))
		}
		s = s[size:]
	}
	return strings.Join(parts, " . ")
}

// String is the element as nft prints it.
func (e element) String() string {
	d := mapDefByName[e.Map]
	s := unpackText(e.Key, d.key)
	if e.Comment != "" {
		s += " comment " + strconv.Quote(e.Comment)
	}
	switch {
	case d.verdicts:
		s += " : jump " + e.Value
	case d.data != nil:
		s += " : " + unpackText(e.Value, d.data)
	}
	return s
}

// text is the verb as one would give it to nft. An update is two commands there.
func (v verb) text(f family) string {
	one := func(word string) string {
		return fmt.Sprintf("%s element %s %s %s { %s }", word, f, tableName, v.Map, v.element)
	}
	if v.Op != opUpdate {
		return one(string(v.Op))
	}
	d := mapDefByName[v.Map]
	return fmt.Sprintf("delete element %s %s %s { %s }; %s", f, tableName, v.Map, unpackText(v.Key, d.key), one("add"))
}

// text prints the verbs, a line each.
func (p plan) text(f family) string {
	var b strings.Builder
	for _, v := range p.Verbs {
		fmt.Fprintln(&b, v.text(f))
	}
	return b.String()
}

// writeTable prints a whole table in nft's syntax; nft -f loads it.
func writeTable(w io.Writer, f family, chains []chain, held elements) error {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", f, tableName)
	for _, c := range chains { // maps may jump to chains declared below them only in the kernel's eyes: declare all first
		if c.hook == nil {
			fmt.Fprintf(&b, "\tchain %s {\n\t}\n", c.name)
		}
	}
	byMap := map[string][]element{}
	for k, v := range held {
		byMap[k.Map] = append(byMap[k.Map], element{k, v})
	}
	for _, d := range mapDefs {
		writeMap(&b, f, d, byMap[d.name])
	}
	for _, c := range chains {
		fmt.Fprintf(&b, "\tchain %s {\n", c.name)
		if c.hook != nil {
			fmt.Fprintf(&b, "\t\t%s; policy accept;\n", c.hook.text)
		}
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r.text)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func writeMap(b *strings.Builder, f family, d mapDef, held []element) {
	word, typ := "set", typeText(f, d.key)
	switch {
	case d.verdicts:
		word, typ = "map", typ+" : verdict"
	case d.data != nil:
		word, typ = "map", typ+" : "+typeText(f, d.data)
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s\n", word, d.name, typ)
	if d.remembers {
		fmt.Fprintf(b, "\t\tsize %d\n\t\tflags dynamic,timeout\n", affinitySize)
	}
	if d.counter {
		b.WriteString("\t\tcounter\n")
	}
	if len(held) > 0 {
		slices.SortFunc(held, func(x, y element) int { return strings.Compare(x.String(), y.String()) })
		b.WriteString("\t\telements = { ")
		for i, e := range held {
			if i > 0 {
				b.WriteString(",\n\t\t\t     ")
			}
			b.WriteString(e.String())
		}
		b.WriteString(" }\n")
	}
	b.WriteString("\t}\n")
}

func typeText(f family, fields []field) string {
	names := make([]string, len(fields))
	for i, x := range fields {
		names[i] = fieldType(f, x).Name
	}
	return strings.Join(names, " . ")
}
