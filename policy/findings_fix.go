package policy

import (
	"bytes"
	"strings"
)

// An edit replaces a part of a document's text.
type edit struct {
	start, end int // in bytes
	text       string
}

// apply makes edits, which are in the order of their places and do not overlap.
func apply(document []byte, edits []edit) []byte {
	var out bytes.Buffer
	done := 0
	for _, e := range edits {
		out.Write(document[done:e.start])
		out.WriteString(e.text)
		done = e.end
	}
	out.Write(document[done:])
	return out.Bytes()
}

// replace replaces a string by one that needs no escapes.
func replace(n *node, text string) []edit {
	return []edit{{n.start.offset, n.end.offset, `"` + text + `"`}}
}

// setVersion gives the document the version that has policy variables; an element that it lacks becomes the first.
func (a *analysis) setVersion() []edit {
	const version = "2012-10-17"
	if a.version != nil {
		return replace(a.version, version)
	}
	if len(a.root.members) == 0 {
		return nil
	}
	first := &a.root.members[0]
	at := first.name.start.offset
	colon := a.document[first.name.end.offset:first.value.start.offset]
	space := a.document[a.root.start.offset+1 : at]
	if len(space) == 0 && bytes.ContainsRune(colon, ' ') {
		space = []byte(" ")
	}
	return []edit{{at, at, `"Version"` + string(colon) + `"` + version + `",` + string(space)}}
}

// appendString adds a string that needs no escapes to the end of a list, or makes a list of a lone value and it. What stands
// between the list's elements also stands before the added one.
func (a *analysis) appendString(n *node, text string) []edit {
	switch count := len(n.elements); {
	case n.typ != arrayNode:
		return []edit{{n.start.offset, n.start.offset, "["}, {n.end.offset, n.end.offset, `, "` + text + `"]`}}
	case count == 1:
		end := n.elements[0].end.offset
		space := a.document[n.start.offset+1 : n.elements[0].start.offset]
		if len(space) == 0 {
			space = []byte(" ")
		}
		return []edit{{end, end, "," + string(space) + `"` + text + `"`}}
	default:
		last := &n.elements[count-1]
		comma := a.document[n.elements[count-2].end.offset:last.start.offset]
		return []edit{{last.end.offset, last.end.offset, string(comma) + `"` + text + `"`}}
	}
}

// removeMember removes a member from an object of several.
func removeMember(object *node, name *node) []edit {
	i := 0
	for &object.members[i].name != name {
		i++
	}
	if i+1 < len(object.members) {
		return []edit{{name.start.offset, object.members[i+1].name.start.offset, ""}}
	}
	return []edit{{object.members[i-1].value.end.offset, object.members[i].value.end.offset, ""}}
}

// exactOperator is the operator that compares character by character what StringLike or StringNotLike, or one of their
// forms, compares with wildcards.
func exactOperator(name string) string { return strings.Replace(name, "Like", "Equals", 1) }

// useStringEquals makes a comparison by StringLike, whose values have no wildcards, one by StringEquals. It renames the
// operator if that leaves the operator's other keys as they are; else the comparison moves to the statement's StringEquals.
func (a *analysis) useStringEquals(c *clause, x *comparison) []edit {
	name := exactOperator(x.operator.text)
	target := c.condition.member(name)
	if target == nil {
		for i := range c.comparisons {
			if y := &c.comparisons[i]; y.operator == x.operator && a.hasWildcard(y) {
				return nil
			}
		}
		return replace(x.operator, name)
	}
	if len(target.members) == 0 || target.member(x.key.text) != nil {
		return nil
	}
	var remove []edit
	if len(x.block.members) == 1 {
		remove = removeMember(c.condition, x.operator)
	} else {
		remove = removeMember(x.block, x.key)
	}
	last := &target.members[len(target.members)-1]
	end := last.value.end.offset
	space := a.document[target.start.offset+1 : target.members[0].name.start.offset]
	if len(space) == 0 {
		space = []byte(" ")
	}
	add := edit{end, end, "," + string(space) + string(a.document[x.key.start.offset:x.value.end.offset])}
	if add.start <= remove[0].start {
		return []edit{add, remove[0]}
	}
	return []edit{remove[0], add}
}
