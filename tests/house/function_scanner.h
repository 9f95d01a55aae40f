// Finds the functions that a C++ text defines. Reads tokens, not a grammar: it knows namespaces,
// classes, templates, constructors, operators and initializers as this project writes them. A
// lambda belongs to the function around it; one that a variable outside all functions is named for
// is a function itself.
#pragma once

#include <string>
#include <vector>

namespace thimble::house {

struct Function {
  std::string name;   ///< with its classes, without namespaces: "Tape::record"
  int line = 0;       ///< of its signature, template line apart
  int num_lines = 0;  ///< to the closing brace
  int num_params = 0;
  bool is_kernel = false;  ///< launched on a GPU
};

/// Every definition, in the order of the text. Throws UserError where brackets do not pair.
std::vector<Function> find_functions(const std::string& text);

}  // namespace thimble::house
