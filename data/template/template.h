// Chat templates: the part of Jinja that they are written in, rendered as transformers'
// apply_chat_template does (sandboxed, trim_blocks and lstrip_blocks on, its own tojson,
// raise_exception, strftime_now, {% generation %}, break and continue).
//
// A template comes with a model and is not trusted: it sees nothing but the values it is given, and
// steps, depth and memory are bounded. What is outside the part of Jinja that is known here is
// refused with its line. Nothing here knows of tokens.
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/template/value.h"

namespace thimble::jinja {

struct RenderLimits {
  std::int64_t steps = 5'000'000;                   // expressions and statements
  std::int64_t made_bytes = std::int64_t{1} << 30;  // of all text and lists made on the way
  std::int64_t output_bytes = std::int64_t{64} << 20;
};

/// Bytes begin .. end of the output.
struct TextRange {
  std::size_t begin = 0, end = 0;
  bool operator==(const TextRange&) const = default;
};

struct Rendered {
  std::string text;
  std::vector<TextRange> generation;  // what stands in {% generation %} blocks
  /// For each of `watched`: where text was printed while it was the variable of a loop, joined
  /// where they touch.
  std::vector<std::vector<TextRange>> watched;
};

struct RenderRequest {
  Dict variables;
  /// Values of `variables`, by identity, whose places in the output are told (the messages).
  std::vector<Value> watched;
  std::time_t now = 0;  // for strftime_now, in local time
  RenderLimits limits;
};

class Template {
 public:
  /// `name` stands for the file in messages. Throws UserError "name:line: ..." for what cannot be
  /// rendered here.
  static Template parse(std::string_view source, std::string name);
  ~Template();
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;

  /// Safe from several threads. Throws UserError "name:line: ..." for what the template raises, for
  /// operations that values do not have, and for limits that are exceeded.
  Rendered render(const RenderRequest& request) const;

  /// Whether it has a {% generation %} block.
  bool marks_generation() const;
  const std::string& name() const;

 private:
  struct Parts;
  explicit Template(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace thimble::jinja
