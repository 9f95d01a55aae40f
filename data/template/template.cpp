#include "data/template/template.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/template/evaluator.h"
#include "data/template/parser.h"

namespace thimble::jinja {
namespace {

constexpr std::size_t kMaxSourceBytes = std::size_t{1} << 20;

bool has_generation(const Block& block) {
  return std::any_of(block.begin(), block.end(), [](const StmtPtr& s) {
    return s->kind == StmtKind::kGeneration || has_generation(s->body) ||
           has_generation(s->otherwise);
  });
}

}  // namespace

struct Template::Parts {
  std::string name;
  Block block;
  bool generation = false;
};

Template::Template(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Template::~Template() = default;
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;

bool Template::marks_generation() const {
  return parts_->generation;
}

const std::string& Template::name() const {
  return parts_->name;
}

Template Template::parse(std::string_view source, std::string name) {
  if (source.size() > kMaxSourceBytes)
    throw_user("{}: a chat template of {} bytes; at most {} are read", name, source.size(),
               kMaxSourceBytes);
  auto parts = std::make_unique<Parts>();
  parts->name = std::move(name);
  try {
    parts->block = parse_template(source);
  } catch (const TemplateSyntaxError& e) {
    throw_user("{}:{}: chat template: {}", parts->name, e.line, e.text);
  }
  parts->generation = has_generation(parts->block);
  return Template(std::move(parts));
}

Rendered Template::render(const RenderRequest& request) const {
  Evaluator evaluator(request);
  try {
    return evaluator.run(parts_->block);
  } catch (const TemplateFailure& e) {
    if (e.raised)
      throw_user("{}:{}: the chat template refuses it: {}", parts_->name, evaluator.line(),
                 printable(e.text, 300));
    throw_user("{}:{}: chat template: {}", parts_->name, evaluator.line(), e.text);
  }
}

}  // namespace thimble::jinja
