// The tokens of a template to its statements. Called by Template::parse.
#pragma once

#include <string_view>

#include "data/template/ast.h"
#include "data/template/lexer.h"

namespace thimble::jinja {

/// Throws TemplateSyntaxError for what is not Jinja, or not in the part of it that is rendered
/// here.
Block parse_template(std::string_view source);

}  // namespace thimble::jinja
