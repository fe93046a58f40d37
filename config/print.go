package config

import (
	"fmt"
	"io"

	"go.yaml.in/yaml/v4"
)

// Print writes the configuration as a YAML file that loads to the same configuration again.
// It holds no secret: no option of today is one, and URLs with a password are refused by [Load].
func (c *Config) Print(w io.Writer) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, o := range options() {
		if o.notInFile {
			continue
		}
		var value yaml.Node
		if err := value.Encode(o.encode(c)); err != nil {
			return fmt.Errorf("print option %s: %w", o.name, err)
		}
		root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: o.name}, &value)
	}
	data, err := yaml.Dump(root)
	if err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	return nil
}
