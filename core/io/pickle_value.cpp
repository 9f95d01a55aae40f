#include <array>
#include <bit>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/io/pickle.h"

namespace thimble {
namespace {

constexpr std::array<std::string_view, 13> kKindNames{
    "None",    "a bool", "an integer", "a float", "a string", "bytes",          "a list",
    "a tuple", "a dict", "a set",      "",        "",         "a persistent id"};

[[noreturn]] void wrong(const PickleValue& value, std::string_view what, std::string_view wanted) {
  throw_user("{}: {} is {}; allowed {}", value.file(), what, value.describe(), wanted);
}

}  // namespace

std::int64_t PickleValue::integer(std::string_view what) const {
  if (!is(PickleKind::kInt) && !is(PickleKind::kBool)) wrong(*this, what, "an integer");
  return node().integer;
}

double PickleValue::number(std::string_view what) const {
  if (is(PickleKind::kFloat)) return std::bit_cast<double>(node().integer);
  if (!is(PickleKind::kInt)) wrong(*this, what, "a number");
  return static_cast<double>(node().integer);
}

std::string_view PickleValue::text(std::string_view what) const {
  if (!is(PickleKind::kString) && !is(PickleKind::kBytes)) wrong(*this, what, "a string");
  return std::string_view(all_->text)
      .substr(static_cast<std::size_t>(node().integer), node().bytes);
}

std::vector<PickleValue> PickleValue::items() const {
  std::vector<PickleValue> out;
  out.reserve(size());
  for (std::size_t i = 0; i < size(); ++i) out.push_back(item(i));
  return out;
}

std::vector<std::pair<PickleValue, PickleValue>> PickleValue::entries() const {
  std::vector<std::pair<PickleValue, PickleValue>> out;
  if (!is(PickleKind::kDict) && !is(PickleKind::kObject)) return out;
  out.reserve(size() / 2);
  for (std::size_t i = 0; i + 1 < size(); i += 2) out.emplace_back(item(i), item(i + 1));
  return out;
}

std::optional<PickleValue> PickleValue::find(std::string_view key) const {
  if (!is(PickleKind::kDict) && !is(PickleKind::kObject)) return std::nullopt;
  for (std::size_t i = size() / 2; i-- > 0;) {
    const PickleValue candidate = item(2 * i);
    if (candidate.is(PickleKind::kString) && candidate.text("a key") == key) return item(2 * i + 1);
  }
  return std::nullopt;
}

std::string_view PickleValue::global() const {
  if (is(PickleKind::kObject)) return at(node().callee).global();
  if (!is(PickleKind::kGlobal)) return {};
  return all_->globals[static_cast<std::size_t>(node().integer)];
}

std::optional<PickleValue> PickleValue::state() const {
  if (!is(PickleKind::kObject) || node().state == 0) return std::nullopt;
  return at(node().state);
}

std::string PickleValue::describe() const {
  if (is(PickleKind::kGlobal)) return fmt::format("the name {}", printable(global()));
  if (is(PickleKind::kObject)) return fmt::format("an object of {}", printable(global()));
  return std::string(kKindNames.at(static_cast<std::size_t>(kind())));
}

}  // namespace thimble
