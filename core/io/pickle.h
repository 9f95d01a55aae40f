// Python pickles as plain values. Nothing is executed: a global is a name, and what a pickle would
// call or build is kept as an object of that name with its arguments. The caller decides what such
// an object means. Globals outside a list of packages that files of models need are refused by
// name. Protocols 2 to 5.
//
// Bounds: at most kMaxPickleBytes of text and kMaxPickleNodes values; values may be shared or
// contain themselves, so a walk over them must bound its depth.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

inline constexpr std::int64_t kMaxPickleBytes = std::int64_t{256} << 20;
inline constexpr std::size_t kMaxPickleNodes = std::size_t{1} << 22;

enum class PickleKind : std::uint8_t {
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kBytes,
  kList,
  kTuple,
  kDict,
  kSet,
  kGlobal,      // "module name"
  kObject,      // what a call would have made
  kPersistent,  // what lies outside, by its id
};

namespace internal {

/// A value by its index; references to others are indexes too.
struct PickleNode {
  PickleKind kind = PickleKind::kNone;
  std::uint32_t callee = 0, arguments = 0, state = 0;  // of an object; 0: no state
  std::int64_t integer = 0;  // or the bits of a float, or the offset of a text
  std::uint32_t bytes = 0;   // of a text
  std::vector<std::uint32_t> items =
      {};  // of a dictionary key, value, key, value ...; also an object's
};

struct PickleNodes {
  std::string text, file;
  std::vector<PickleNode> nodes;
  std::vector<std::string> globals;
  std::uint32_t root = 0;
};

}  // namespace internal

/// One value of a pickle. Keeps the whole pickle alive; copying is cheap.
class PickleValue {
 public:
  /// Reads a pickle; `file` is named in messages. UserError on anything that is not a whole pickle,
  /// needs more than is allowed or names a refused global.
  static PickleValue parse(std::string text, std::string_view file);

  PickleKind kind() const { return node().kind; }
  bool is(PickleKind kind) const { return node().kind == kind; }
  bool is_none() const { return is(PickleKind::kNone); }

  /// The value, or a UserError that names the file, `what` was read and what was found.
  std::int64_t integer(std::string_view what) const;
  double number(std::string_view what) const;
  std::string_view text(std::string_view what) const;

  /// Of a list, tuple or set, and of an object that was filled like a list.
  std::size_t size() const { return node().items.size(); }
  PickleValue item(std::size_t i) const { return at(node().items.at(i)); }
  std::vector<PickleValue> items() const;

  /// Entries of a dictionary, and of an object that was filled like one.
  std::vector<std::pair<PickleValue, PickleValue>> entries() const;
  /// The last entry under that text; none if there is none, or if this is no dictionary.
  std::optional<PickleValue> find(std::string_view key) const;

  /// Of a global "module name"; of an object that of what it calls. Empty for anything else.
  std::string_view global() const;
  /// Of an object: the tuple that it is called with.
  PickleValue arguments() const { return at(node().arguments); }
  /// Of an object: what it was given after its making. None if nothing was.
  std::optional<PickleValue> state() const;
  /// Of a persistent reference: its id.
  PickleValue persistent_id() const { return at(node().arguments); }

  /// "a list", "an object of os system", for messages.
  std::string describe() const;
  const std::string& file() const { return all_->file; }
  /// Tells values of one pickle apart.
  std::uint32_t index() const { return index_; }

 private:
  PickleValue(std::shared_ptr<const internal::PickleNodes> all, std::uint32_t index)
      : all_(std::move(all)), index_(index) {}
  const internal::PickleNode& node() const { return all_->nodes[index_]; }
  PickleValue at(std::uint32_t index) const { return {all_, index}; }

  std::shared_ptr<const internal::PickleNodes> all_;
  std::uint32_t index_ = 0;
};

}  // namespace thimble
