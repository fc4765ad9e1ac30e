//go:build tools

// Package tools names what this module is for: the program GeeseFS, which is built from here as it was released.
package tools

import _ "github.com/yandex-cloud/geesefs"
