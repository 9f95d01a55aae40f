#include "core/io/gguf_writer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <numeric>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

constexpr std::int64_t kTensorAlignment =
    32;  // of tensors, where general.alignment says nothing else
constexpr std::uint32_t kGgufVersion = 3;

// The header as it grows; every number is little-endian, as the machine's.
class GgufHeader {
 public:
  template <typename T>
  void number(T value) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  void text(std::string_view text) {
    number<std::uint64_t>(text.size());
    const std::size_t at = bytes_.size();
    bytes_.resize(at + text.size());
    if (!text.empty()) std::memcpy(bytes_.data() + at, text.data(), text.size());
  }
  void pad() { bytes_.resize(static_cast<std::size_t>(round_up(size(), kTensorAlignment))); }
  std::int64_t size() const { return narrow<std::int64_t>(bytes_.size()); }
  std::span<const std::byte> span() const { return bytes_; }

  // Values of keys; the numbers of their types are the format's.
  void value(std::uint32_t v) { tagged<std::uint32_t>(4, v); }
  void value(float v) { tagged<std::uint32_t>(6, v); }
  void value(bool v) { tagged<std::uint32_t>(7, static_cast<std::uint8_t>(v)); }
  void value(const std::string& v) {
    number<std::uint32_t>(8);
    text(v);
  }
  void value(const std::vector<std::string>& v) {
    array(8, v.size());
    for (const std::string& each : v) text(each);
  }
  void value(const std::vector<float>& v) {
    array(6, v.size());
    for (const float each : v) number(each);
  }
  void value(const std::vector<std::int32_t>& v) {
    array(5, v.size());
    for (const std::int32_t each : v) number(each);
  }

 private:
  template <typename Tag, typename T>
  void tagged(Tag tag, T v) {
    number(tag);
    number(v);
  }
  void array(std::uint32_t type, std::size_t count) {
    number<std::uint32_t>(9);
    number(type);
    number<std::uint64_t>(count);
  }

  std::vector<std::byte> bytes_;
};

}  // namespace

const GgufTypeFacts& gguf_type(GgufType type) {
  static constexpr std::array kTypes{GgufTypeFacts{GgufType::kF32, "fp32", 1, 4, 0},
                                     GgufTypeFacts{GgufType::kF16, "fp16", 1, 2, 1},
                                     GgufTypeFacts{GgufType::kBF16, "bf16", 1, 2, 32},
                                     GgufTypeFacts{GgufType::kQ8_0, "q8_0", 32, 2 + 32, 7},
                                     GgufTypeFacts{GgufType::kQ4_0, "q4_0", 32, 2 + 16, 2}};
  const auto* const found =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& t) { return t.type == type; });
  TH_CHECK(found != kTypes.end());
  return *found;
}

std::int64_t GgufTensor::numel() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::int64_t GgufTensor::bytes() const {
  const GgufTypeFacts& facts = gguf_type(type);
  return numel() / facts.block_elements * facts.block_bytes;
}

GgufLayout::GgufLayout(const GgufKeys& keys, const std::vector<GgufTensor>& tensors) {
  GgufHeader bytes;
  bytes.number(std::uint32_t{0x46554747});  // "GGUF"
  bytes.number(kGgufVersion);
  bytes.number<std::uint64_t>(tensors.size());
  bytes.number<std::uint64_t>(keys.size());
  for (const auto& [name, value] : keys) {
    bytes.text(name);
    std::visit([&](const auto& v) { bytes.value(v); }, value);
  }
  std::int64_t data = 0;
  for (const GgufTensor& tensor : tensors) {
    TH_CHECK(
        !tensor.shape.empty() && tensor.shape.back() % gguf_type(tensor.type).block_elements == 0,
        "{}", tensor.name);
    bytes.text(tensor.name);
    bytes.number(narrow<std::uint32_t>(tensor.shape.size()));
    // The format counts dimensions from the one whose elements follow one another.
    for (std::size_t i = tensor.shape.size(); i-- > 0;)
      bytes.number<std::uint64_t>(narrow<std::uint64_t>(tensor.shape[i]));
    bytes.number(static_cast<std::uint32_t>(tensor.type));
    bytes.number<std::uint64_t>(narrow<std::uint64_t>(data));
    offsets.push_back(data);
    sizes.push_back(tensor.bytes());
    data += round_up(tensor.bytes(), kTensorAlignment);
  }
  bytes.pad();
  header.assign(bytes.span().begin(), bytes.span().end());
  for (std::int64_t& offset : offsets) offset += bytes.size();
}

GgufWriter::GgufWriter(const std::filesystem::path& file, const GgufLayout& layout)
    : layout_(layout), file_(File::create(file)) {
  if (!layout.offsets.empty())
    file_.reserve(round_up(layout.offsets.back() + layout.sizes.back(), kTensorAlignment));
  file_.write_at(0, layout.header);
}

void GgufWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    TH_CHECK(tensor_ < layout_.sizes.size(), "more bytes than the tensors have");
    const auto count = std::min(narrow<std::int64_t>(bytes.size()), layout_.sizes[tensor_] - done_);
    file_.write_at(layout_.offsets[tensor_] + done_, bytes.first(static_cast<std::size_t>(count)));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    done_ += count;
    if (done_ < layout_.sizes[tensor_]) continue;
    ++tensor_;
    done_ = 0;
  }
}

void GgufWriter::finish() {
  while (tensor_ < layout_.sizes.size() && layout_.sizes[tensor_] == 0) ++tensor_;
  TH_CHECK_EQ(tensor_, layout_.sizes.size());
  // Readers expect the padding behind the last tensor too.
  if (!layout_.sizes.empty()) {
    const std::int64_t end = layout_.offsets.back() + layout_.sizes.back();
    const std::vector<std::byte> padding(
        static_cast<std::size_t>(round_up(end, kTensorAlignment) - end));
    if (!padding.empty()) file_.write_at(end, padding);
  }
}

}  // namespace thimble
