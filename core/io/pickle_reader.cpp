#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <unordered_map>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/pickle.h"

namespace thimble {
namespace {

using internal::PickleNode;
using internal::PickleNodes;

// Packages whose names files of models contain. Nothing of them is called; a pickle that names
// anything else is no file of a model and may be an attack on those who load it by executing it.
constexpr std::array<std::string_view, 15> kPackages{
    "torch",      "collections", "numpy",     "deepspeed", "transformers",
    "accelerate", "argparse",    "pathlib",   "datetime",  "_codecs",
    "copyreg",    "functools",   "omegaconf", "enum",      "megatron"};
constexpr std::array<std::string_view, 14> kBuiltins{
    "set",       "frozenset", "list", "dict",  "tuple", "slice", "complex",
    "bytearray", "bytes",     "int",  "float", "bool",  "str",   "object"};
constexpr std::uint32_t kMark = 0xFFFFFFFFu;
constexpr std::size_t kMaxGlobalBytes = 512;

bool is_allowed(std::string_view module, std::string_view name) {
  const auto has = [](const auto& list, std::string_view word) {
    return std::find(list.begin(), list.end(), word) != list.end();
  };
  if (module == "builtins" || module == "__builtin__") return has(kBuiltins, name);
  return has(kPackages, module.substr(0, module.find('.')));
}

class Unpickler {
 public:
  explicit Unpickler(PickleNodes& out) : out_(out) {
    out_.nodes.emplace_back();  // None, at index 0: what nothing refers to by mistake
  }

  void run() {
    if (const std::uint8_t first = u8(); first != 0x80 || u8() > 5)
      fail("it does not begin like a pickle of protocol 2 to 5");
    while (!step(u8())) {
    }
    out_.root = pop();
  }

 private:
  [[noreturn]] void fail(std::string_view why) const {
    throw_user("{}: damaged or unknown pickle: {} (at byte {})", out_.file, why, at_);
  }

  std::string_view take(std::uint64_t bytes) {
    if (bytes > out_.text.size() - at_) fail("it ends too early");
    const std::string_view taken =
        std::string_view(out_.text).substr(at_, static_cast<std::size_t>(bytes));
    at_ += static_cast<std::size_t>(bytes);
    return taken;
  }
  template <typename T>
  T value() {
    T out{};
    std::memcpy(&out, take(sizeof(T)).data(), sizeof(T));
    return out;
  }
  std::uint8_t u8() { return value<std::uint8_t>(); }
  std::string_view line() {
    const std::size_t end = out_.text.find('\n', at_);
    if (end == std::string::npos || end - at_ > kMaxGlobalBytes) fail("a line does not end");
    const std::string_view taken = take(end - at_);
    ++at_;
    return taken;
  }

  std::uint32_t add(PickleNode node) {
    if (out_.nodes.size() >= kMaxPickleNodes) {
      throw_user("{}: its pickle holds more than {} values; no more are read", out_.file,
                 kMaxPickleNodes);
    }
    out_.nodes.push_back(std::move(node));
    return static_cast<std::uint32_t>(out_.nodes.size() - 1);
  }
  void push(PickleNode node) { stack_.push_back(add(std::move(node))); }
  void push_integer(std::int64_t value, PickleKind kind = PickleKind::kInt) {
    push({.kind = kind, .integer = value});
  }
  void push_text(std::uint64_t bytes, PickleKind kind) {
    if (bytes > 0xFFFFFFFFu) fail("a text is too long");
    const auto begin = static_cast<std::int64_t>(at_);
    take(bytes);
    push({.kind = kind, .integer = begin, .bytes = static_cast<std::uint32_t>(bytes)});
  }
  std::uint32_t top() const {
    if (stack_.empty() || stack_.back() == kMark) fail("its stack is empty");
    return stack_.back();
  }
  std::uint32_t pop() {
    const std::uint32_t value = top();
    stack_.pop_back();
    return value;
  }
  // What lies above the last mark, which goes too.
  std::vector<std::uint32_t> pop_to_mark() {
    const auto mark = std::find(stack_.rbegin(), stack_.rend(), kMark);
    if (mark == stack_.rend()) fail("a mark is missing");
    std::vector<std::uint32_t> values(mark.base(), stack_.end());
    stack_.erase(mark.base() - 1, stack_.end());
    return values;
  }
  std::vector<std::uint32_t> pop_values(int count) {
    std::vector<std::uint32_t> values(static_cast<std::size_t>(count));
    for (auto value = values.rbegin(); value != values.rend(); ++value) *value = pop();
    return values;
  }
  void push_sequence(PickleKind kind, std::vector<std::uint32_t> items) {
    push({.kind = kind, .items = std::move(items)});
  }
  void push_object(std::uint32_t callee, std::uint32_t arguments) {
    const PickleKind kind = out_.nodes[callee].kind;
    if (kind != PickleKind::kGlobal && kind != PickleKind::kObject)
      fail("it calls what is no name");
    if (kind == PickleKind::kObject && ++nested_calls_ > kMaxNestedCalls)
      fail("calls of what calls return are nested too deep");
    push({.kind = PickleKind::kObject, .callee = callee, .arguments = arguments});
  }
  // Appends to a list, dictionary or set, or to an object that stands for one.
  void fill(std::vector<std::uint32_t> values, bool pairs) {
    if (pairs && values.size() % 2 != 0) fail("a key has no value");
    PickleNode& target = out_.nodes[top()];
    const bool fits = target.kind == PickleKind::kObject ||
                      (pairs ? target.kind == PickleKind::kDict
                             : target.kind == PickleKind::kList || target.kind == PickleKind::kSet);
    if (!fits) fail("it appends to what holds nothing");
    target.items.insert(target.items.end(), values.begin(), values.end());
  }

  void push_global(std::string_view module, std::string_view name) {
    if (!is_allowed(module, name)) {
      throw_user(
          "{}: refused: its pickle names {}.{}, which no file of tensors needs; loading it by "
          "executing it could run any program",
          out_.file, printable(module), printable(name));
    }
    std::string full = fmt::format("{} {}", module, name);
    const auto [found, added] = global_ids_.emplace(full, out_.globals.size());
    if (added) out_.globals.push_back(std::move(full));
    push_integer(static_cast<std::int64_t>(found->second), PickleKind::kGlobal);
  }
  std::string_view text_of(std::uint32_t id) const {
    const PickleNode& node = out_.nodes[id];
    if (node.kind != PickleKind::kString || node.bytes > kMaxGlobalBytes) fail("a name is no text");
    return std::string_view(out_.text).substr(static_cast<std::size_t>(node.integer), node.bytes);
  }

  void remember(std::uint64_t slot) {
    if (slot > kMaxPickleNodes) fail("a memo number is too large");
    if (slot >= memo_.size()) memo_.resize(static_cast<std::size_t>(slot) + 1, 0);
    memo_[static_cast<std::size_t>(slot)] = top();
    used_memo_ = std::max(used_memo_, static_cast<std::size_t>(slot) + 1);
  }
  void recall(std::uint64_t slot) {
    if (slot >= memo_.size() || memo_[static_cast<std::size_t>(slot)] == 0)
      fail("it refers to what was not remembered");
    stack_.push_back(memo_[static_cast<std::size_t>(slot)]);
  }

  // A little-endian integer of any length; what does not fit 64 bits is kept as its bytes.
  void push_long(std::uint32_t bytes) {
    if (bytes > 8) return push_text(bytes, PickleKind::kBytes);
    std::int64_t value = 0;
    const std::string_view digits = take(bytes);
    std::memcpy(&value, digits.data(), digits.size());
    if (bytes > 0 && bytes < 8 && (static_cast<std::uint8_t>(digits.back()) & 0x80u) != 0)
      value |= -(std::int64_t{1} << (8 * bytes));
    push_integer(value);
  }

  bool step(std::uint8_t opcode) {
    if (opcode == '.') return true;
    if (stack_.size() > kMaxPickleNodes) fail("its stack is too large");
    if (!step_scalar(opcode) && !step_container(opcode) && !step_object(opcode))
      fail(fmt::format("operation 0x{:02x} is not read", opcode));
    return false;
  }
  bool step_scalar(std::uint8_t opcode);
  bool step_container(std::uint8_t opcode);
  bool step_object(std::uint8_t opcode);
  bool step_stack(std::uint8_t opcode);

  static constexpr int kMaxNestedCalls = 64;

  PickleNodes& out_;
  std::size_t at_ = 0, used_memo_ = 0;
  int nested_calls_ = 0;
  std::vector<std::uint32_t> stack_, memo_;
  std::unordered_map<std::string, std::size_t> global_ids_;
};

bool Unpickler::step_scalar(std::uint8_t opcode) {
  switch (opcode) {
    case 'N':
      return push({}), true;
    case 0x88:
    case 0x89:
      return push_integer(opcode == 0x88 ? 1 : 0, PickleKind::kBool), true;
    case 'J':
      return push_integer(value<std::int32_t>()), true;
    case 'K':
      return push_integer(u8()), true;
    case 'M':
      return push_integer(value<std::uint16_t>()), true;
    case 0x8a:
      return push_long(u8()), true;
    case 0x8b:
      return push_long(value<std::uint32_t>()), true;
    case 'G': {
      std::uint64_t bits = 0;  // big-endian, unlike all else
      for (int i = 0; i < 8; ++i) bits = bits << 8 | u8();
      return push_integer(static_cast<std::int64_t>(bits), PickleKind::kFloat), true;
    }
    case 0x8c:
      return push_text(u8(), PickleKind::kString), true;
    case 'X':
      return push_text(value<std::uint32_t>(), PickleKind::kString), true;
    case 0x8d:
      return push_text(value<std::uint64_t>(), PickleKind::kString), true;
    case 'C':
    case 'U':
      return push_text(u8(), opcode == 'U' ? PickleKind::kString : PickleKind::kBytes), true;
    case 'B':
    case 'T':
      return push_text(value<std::uint32_t>(),
                       opcode == 'T' ? PickleKind::kString : PickleKind::kBytes),
             true;
    case 0x8e:
    case 0x96:
      return push_text(value<std::uint64_t>(), PickleKind::kBytes), true;
    default:
      return false;
  }
}

bool Unpickler::step_container(std::uint8_t opcode) {
  switch (opcode) {
    case ']':
      return push_sequence(PickleKind::kList, {}), true;
    case '}':
      return push_sequence(PickleKind::kDict, {}), true;
    case ')':
      return push_sequence(PickleKind::kTuple, {}), true;
    case 0x8f:
      return push_sequence(PickleKind::kSet, {}), true;
    case 'l':
      return push_sequence(PickleKind::kList, pop_to_mark()), true;
    case 't':
      return push_sequence(PickleKind::kTuple, pop_to_mark()), true;
    case 0x91:
      return push_sequence(PickleKind::kSet, pop_to_mark()), true;
    case 'd': {
      std::vector<std::uint32_t> values = pop_to_mark();
      push_sequence(PickleKind::kDict, {});
      return fill(std::move(values), true), true;
    }
    case 0x85:
    case 0x86:
    case 0x87:
      return push_sequence(PickleKind::kTuple, pop_values(opcode - 0x84)), true;
    case 'a':
      return fill(pop_values(1), false), true;
    case 's':
      return fill(pop_values(2), true), true;
    case 'e':
    case 0x90:
      return fill(pop_to_mark(), false), true;
    case 'u':
      return fill(pop_to_mark(), true), true;
    default:
      return step_stack(opcode);
  }
}

bool Unpickler::step_stack(std::uint8_t opcode) {
  switch (opcode) {
    case '(':
      return stack_.push_back(kMark), true;
    case '0':
      return pop(), true;
    case '1':
      return pop_to_mark(), true;
    case '2':
      return stack_.push_back(top()), true;
    case 'q':
      return remember(u8()), true;
    case 'r':
      return remember(value<std::uint32_t>()), true;
    case 0x94:
      return remember(used_memo_), true;
    case 'h':
      return recall(u8()), true;
    case 'j':
      return recall(value<std::uint32_t>()), true;
    case 0x95:
      return take(8), true;  // a frame: how much to read ahead
    default:
      return false;
  }
}

bool Unpickler::step_object(std::uint8_t opcode) {
  switch (opcode) {
    case 'c': {
      const std::string_view module = line();
      return push_global(module, line()), true;
    }
    case 0x93: {
      const std::uint32_t name = pop();
      return push_global(text_of(pop()), text_of(name)), true;
    }
    case 'Q':
      return push({.kind = PickleKind::kPersistent, .arguments = pop()}), true;
    case 'R':
    case 0x81: {
      const std::uint32_t arguments = pop();
      return push_object(pop(), arguments), true;
    }
    case 0x92: {
      const std::uint32_t keywords = pop(), arguments = pop(), callee = pop();
      push_object(callee, arguments);
      out_.nodes[stack_.back()].state = keywords;
      return true;
    }
    case 'b': {
      const std::uint32_t state = pop();
      PickleNode& target = out_.nodes[top()];
      if (target.kind != PickleKind::kObject) fail("it sets the state of what is no object");
      target.state = state;
      return true;
    }
    default:
      return false;
  }
}

}  // namespace

PickleValue PickleValue::parse(std::string text, std::string_view file) {
  auto all = std::make_shared<PickleNodes>();
  all->file = std::string(file);
  if (narrow<std::int64_t>(text.size()) > kMaxPickleBytes) {
    throw_user("{}: its pickle has {} bytes; at most {} are read", file, text.size(),
               kMaxPickleBytes);
  }
  all->text = std::move(text);
  Unpickler(*all).run();
  const std::uint32_t root = all->root;
  return {std::move(all), root};
}

}  // namespace thimble
