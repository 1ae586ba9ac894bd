package webhook

// Fits is fits, for its table and its fuzz test.
func Fits(pattern, name string) bool { return fits(pattern, name) }
