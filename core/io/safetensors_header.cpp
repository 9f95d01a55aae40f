#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/safetensors.h"

namespace thimble {
namespace {

using nlohmann::json;

struct KnownDType {
  std::string_view text;
  std::int64_t bits;
  std::optional<DType> dtype;
};

constexpr std::array<KnownDType, 22> kKnownDTypes = {{
    {"F32", 32, DType::kF32},
    {"BF16", 16, DType::kBF16},
    {"F16", 16, DType::kF16},
    {"I32", 32, DType::kI32},
    {"U8", 8, DType::kU8},
    {"BOOL", 8, std::nullopt},
    {"I8", 8, std::nullopt},
    {"I16", 16, std::nullopt},
    {"U16", 16, std::nullopt},
    {"U32", 32, std::nullopt},
    {"I64", 64, std::nullopt},
    {"U64", 64, std::nullopt},
    {"F64", 64, std::nullopt},
    {"C64", 64, std::nullopt},
    {"F8_E4M3", 8, std::nullopt},
    {"F8_E5M2", 8, std::nullopt},
    {"F8_E8M0", 8, std::nullopt},
    {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt},
    {"F4", 4, std::nullopt},
    {"F8_E4M3FNUZ", 8, std::nullopt},
    {"F8_E5M2FNUZ", 8, std::nullopt},
}};
constexpr std::size_t kMaxRank = 32;
constexpr std::int64_t kMaxSize = std::numeric_limits<std::int64_t>::max();

const KnownDType* find_dtype(std::string_view text) {
  const auto found = std::find_if(kKnownDTypes.begin(), kKnownDTypes.end(),
                                  [&](const KnownDType& known) { return known.text == text; });
  return found == kKnownDTypes.end() ? nullptr : &*found;
}

/// Accepts exactly {"name": {"dtype": text, "shape": [sizes], "data_offsets": [begin, end]}, ...}
/// and an optional
/// "__metadata__" of text to text, without building a document: hostile headers cost no more than
/// honest ones.
class HeaderHandler final : public json::json_sax_t {
 public:
  explicit HeaderHandler(std::string_view file) : file_(file) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override {
    return unexpected(fmt::format("{}", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return unexpected(printable(text));
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) return unexpected(fmt::format("{}", value));
    if (value > static_cast<std::uint64_t>(kMaxSize)) fail("{} in {} is too large", value, field_);
    if (numbers_.size() == kMaxRank) fail("{} has more than {} numbers", field_, kMaxRank);
    numbers_.push_back(static_cast<std::int64_t>(value));
    return true;
  }

  bool string(string_t& text) override {
    if (in_metadata_ && !field_.empty()) {
      if (!header_.metadata.emplace(field_, text).second) {
        fail("duplicate key '{}'", printable(field_));
      }
      return true;
    }
    if (depth_ != 2 || field_ != "dtype")
      return unexpected(fmt::format("text '{}'", printable(text)));
    const KnownDType* known = find_dtype(text);
    if (known == nullptr)
      fail("dtype '{}' is unknown; known are {}", printable(text), known_names());
    entry_.dtype_text = text;
    entry_.dtype = known->dtype;
    bits_ = known->bits;
    return true;
  }

  bool start_object(std::size_t) override {
    if (depth_ == 2 || in_array_) return unexpected("an object");
    ++depth_;
    if (depth_ == 2) {
      in_metadata_ = entry_.name == "__metadata__";
      seen_ = 0;
    }
    field_.clear();
    return true;
  }

  bool key(string_t& text) override {
    if (depth_ == 1) {
      entry_ = SafetensorsEntry{};
      entry_.name = text;
      return true;
    }
    field_ = text;
    if (in_metadata_) return true;
    const unsigned bit = text == "dtype"          ? 1u
                         : text == "shape"        ? 2u
                         : text == "data_offsets" ? 4u
                                                  : 0u;
    if (bit == 0) {
      fail("unknown field '{}'; allowed are dtype, shape, data_offsets", printable(text));
    }
    if ((seen_ & bit) != 0) fail("duplicate key '{}'", text);
    seen_ |= bit;
    return true;
  }

  bool end_object() override {
    --depth_;
    if (depth_ == 1 && in_metadata_) {
      if (seen_metadata_) fail("duplicate key '__metadata__'");
      seen_metadata_ = true;
      in_metadata_ = false;
    } else if (depth_ == 1) {
      finish_entry();
    }
    field_.clear();
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || in_array_ || field_ == "dtype" || field_.empty()) {
      return unexpected("an array");
    }
    in_array_ = true;
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    in_array_ = false;
    if (field_ == "shape") {
      entry_.shape = numbers_;
      return true;
    }
    if (numbers_.size() != 2 || numbers_[0] > numbers_[1]) {
      fail("data_offsets [{}] is not a range; [begin, end] with begin <= end is expected",
           fmt::join(numbers_, ", "));
    }
    entry_.offset = numbers_[0];
    entry_.bytes = numbers_[1] - numbers_[0];
    return true;
  }

  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception&) override {
    throw_user("{}: the header is not valid JSON at byte {} ('{}')", file_, position,
               printable(token, 24));
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
    const std::string what = fmt::format(format, std::forward<Args>(args)...);
    if (entry_.name.empty()) throw_user("{}: {}", file_, what);
    throw_user("{}: tensor '{}': {}", file_, printable(entry_.name), what);
  }

  bool unexpected(std::string_view found) {
    if (depth_ == 0) fail("the header is {}; an object is expected", found);
    if (in_metadata_) fail("the value of '{}' is {}; text is expected", printable(field_), found);
    if (depth_ == 1) fail("its description is {}; an object is expected", found);
    fail("{} holds {}; {} expected", field_, found,
         field_ == "dtype" ? "a type name is" : "non-negative integers are");
  }

  static std::string known_names() {
    std::vector<std::string> names;
    for (const KnownDType& known : kKnownDTypes) names.emplace_back(known.text);
    return join(names);
  }

  void finish_entry() {
    if (seen_ != 7) fail("needs each of dtype, shape and data_offsets");
    std::int64_t bits = bits_;
    for (const std::int64_t size : entry_.shape) {
      if (__builtin_mul_overflow(bits, size, &bits)) {
        fail("the size of shape [{}] overflows 64 bits", fmt::join(entry_.shape, ", "));
      }
    }
    if (bits % 8 != 0 || bits / 8 != entry_.bytes) {
      fail("dtype {} and shape [{}] need {} bytes, data_offsets hold {}", entry_.dtype_text,
           fmt::join(entry_.shape, ", "), ceil_div(bits, 8), entry_.bytes);
    }
    header_.entries.push_back(std::move(entry_));
    entry_ = SafetensorsEntry{};
  }

  std::string_view file_;
  SafetensorsHeader header_;
  SafetensorsEntry entry_;
  std::string field_;
  std::vector<std::int64_t> numbers_;
  std::int64_t bits_ = 0;
  unsigned seen_ = 0;
  int depth_ = 0;
  bool in_array_ = false;
  bool in_metadata_ = false;
  bool seen_metadata_ = false;
};

void check_unique_names(const std::vector<SafetensorsEntry>& entries, std::string_view file) {
  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw_user("{}: duplicate key '{}'", file, printable(*twice));
}

/// The tensors, in the order of their offsets, must tile the data exactly.
void check_coverage(const std::vector<SafetensorsEntry>& entries, std::int64_t data_bytes,
                    std::string_view file) {
  std::int64_t end = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.bytes > data_bytes || entry.offset > data_bytes - entry.bytes) {
      throw_user(
          "{}: tensor '{}' ends at data byte {}, but the file holds only {}: it is truncated", file,
          printable(entry.name), entry.offset + entry.bytes, data_bytes);
    }
    if (entry.offset < end) {
      throw_user(
          "{}: tensor '{}' overlaps the one before it: it begins at data byte {}, that one ends at "
          "{}",
          file, printable(entry.name), entry.offset, end);
    }
    if (entry.offset > end) {
      throw_user(
          "{}: a hole of {} bytes before tensor '{}', which begins at data byte {}; none is "
          "allowed",
          file, entry.offset - end, printable(entry.name), entry.offset);
    }
    end += entry.bytes;
  }
  if (end != data_bytes) {
    throw_user("{}: {} bytes after the last tensor belong to none; none are allowed", file,
               data_bytes - end);
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, std::int64_t file_bytes,
                                           std::string_view file) {
  if (text.empty() || text.front() != '{') {
    throw_user("{}: the header must begin with '{{'; this is not a safetensors file", file);
  }
  // The parser would take a NUL for the end of its input.
  const std::size_t nul = text.find('\0');
  if (nul != text.npos) throw_user("{}: the header is not valid JSON at byte {} (NUL)", file, nul);
  HeaderHandler handler(file);
  json::sax_parse(text.begin(), text.end(), &handler);
  SafetensorsHeader header = handler.take();
  std::sort(header.entries.begin(), header.entries.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              if (a.offset != b.offset) return a.offset < b.offset;
              return a.bytes != b.bytes ? a.bytes < b.bytes : a.name < b.name;
            });
  check_unique_names(header.entries, file);
  const std::int64_t data_begin = 8 + narrow<std::int64_t>(text.size());
  check_coverage(header.entries, file_bytes - data_begin, file);
  for (SafetensorsEntry& entry : header.entries) entry.offset += data_begin;
  return header;
}

}  // namespace thimble
