#include "launcher/convert/torch_file.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"

namespace thimble {
namespace {

struct StorageType {
  std::string_view global, text;
  std::optional<DType> dtype;
  std::int64_t bytes;
};
constexpr std::array<StorageType, 10> kStorageTypes{{
    {"torch FloatStorage", "float32", DType::kF32, 4},
    {"torch BFloat16Storage", "bfloat16", DType::kBF16, 2},
    {"torch HalfStorage", "float16", DType::kF16, 2},
    {"torch DoubleStorage", "float64", std::nullopt, 8},
    {"torch LongStorage", "int64", std::nullopt, 8},
    {"torch IntStorage", "int32", std::nullopt, 4},
    {"torch ShortStorage", "int16", std::nullopt, 2},
    {"torch CharStorage", "int8", std::nullopt, 1},
    {"torch ByteStorage", "uint8", std::nullopt, 1},
    {"torch BoolStorage", "bool", std::nullopt, 1},
}};

constexpr int kMaxWrappers = 8;

// The values of a tuple of at least `count`.
std::vector<PickleValue> tuple(const PickleValue& value, std::size_t count, std::string_view what) {
  if (!value.is(PickleKind::kTuple) || value.size() < count) {
    throw_user("{}: {} is {}; allowed a tuple of at least {} values", value.file(), what,
               value.describe(), count);
  }
  return value.items();
}

}  // namespace

Extents integers(const PickleValue& value, std::string_view what) {
  if (value.global() == "torch Size") return integers(tuple(value.arguments(), 1, what)[0], what);
  if (!value.is(PickleKind::kTuple) && !value.is(PickleKind::kList))
    throw_user("{}: {} is {}; allowed a tuple of integers", value.file(), what, value.describe());
  Extents out;
  for (const PickleValue& item : value.items()) out.push_back(item.integer(what));
  return out;
}

bool is_torch_file(const std::filesystem::path& path) {
  const File file = File::open_read(path);
  std::array<char, 4> head{};
  if (file.size() < 4) return false;
  file.read_at(0, std::as_writable_bytes(std::span(head)));
  const std::string_view text(head.data(), head.size());
  return text == "PK\x03\x04" || text == "\x80\x02\x8a\x0a";
}

TorchFile TorchFile::open(const std::filesystem::path& path) {
  auto file = std::make_shared<const File>(File::open_read(path));
  const std::int64_t bytes = file->size();
  std::array<char, 4> head{};
  if (bytes >= 4) file->read_at(0, std::as_writable_bytes(std::span(head)));
  if (std::string_view(head.data(), 4) == "\x80\x02\x8a\x0a") {
    throw_user(
        "{}: written by torch.save of before version 1.6, which is not read; loading and saving it "
        "by a newer torch makes one that is",
        path.string());
  }
  return open(std::move(file), {0, bytes}, path.string());
}

TorchFile TorchFile::open(std::shared_ptr<const File> file, FileRange range, std::string name) {
  ZipArchive archive = ZipArchive::open(std::move(file), range, std::move(name));
  constexpr std::string_view kPickle = "/data.pkl";
  const ZipEntry* pickle = nullptr;
  for (const ZipEntry& entry : archive.entries()) {
    if (!entry.name.ends_with(kPickle) ||
        entry.name.find('/') + kPickle.size() != entry.name.size())
      continue;
    if (pickle != nullptr) throw_user("{}: it has two pickles", archive.name());
    pickle = &entry;
  }
  if (pickle == nullptr)
    throw_user("{}: a zip file, but not of torch.save: it has no data.pkl", archive.name());
  std::string prefix = pickle->name.substr(0, pickle->name.size() - kPickle.size() + 1);
  if (const ZipEntry* order = archive.find(prefix + "byteorder")) {
    if (archive.read_text(*order, 16) != "little")
      throw_user("{}: its byte order is not little-endian, which is all that is read",
                 archive.name());
  }
  PickleValue root =
      PickleValue::parse(archive.read_text(*pickle, kMaxPickleBytes), archive.name());
  return {std::move(archive), std::move(prefix), std::move(root)};
}

std::optional<TorchTensor> TorchFile::tensor(const PickleValue& value) const {
  PickleValue inner = value;
  for (int depth = 0; depth < kMaxWrappers; ++depth) {
    const std::string_view global = inner.is(PickleKind::kObject) ? inner.global() : "";
    if (global == "torch._utils _rebuild_tensor_v2") return strided(inner.arguments());
    if (global == "torch._utils _rebuild_parameter" ||
        global == "torch._utils _rebuild_parameter_with_state") {
      inner = tuple(inner.arguments(), 1, "a parameter")[0];
      continue;
    }
    if (global == "torch._tensor _rebuild_from_type_v2") {
      // (function, type, its arguments, attributes): a tensor with attributes
      const std::vector<PickleValue> a = tuple(inner.arguments(), 3, "a tensor");
      if (a[0].global() == "torch._utils _rebuild_tensor_v2") return strided(a[2]);
      if (!a[0].global().starts_with("torch._utils _rebuild_parameter"))
        throw_user("{}: a tensor is made by {}, which is not read", name(), a[0].describe());
      inner = tuple(a[2], 1, "a parameter")[0];
      continue;
    }
    if (global.starts_with("torch._utils _rebuild")) {
      throw_user("{}: a tensor is made by {}, which is not read", name(),
                 printable(global.substr(global.find(' ') + 1)));
    }
    return std::nullopt;
  }
  throw_user("{}: a tensor is wrapped too deep", name());
}

TorchTensor TorchFile::strided(const PickleValue& arguments) const {
  const std::vector<PickleValue> a = tuple(arguments, 4, "a tensor");
  if (!a[0].is(PickleKind::kPersistent))
    throw_user("{}: a tensor's storage is {}", name(), a[0].describe());
  const std::vector<PickleValue> id = tuple(a[0].persistent_id(), 5, "a storage");
  if (id[0].text("a storage") != "storage")
    throw_user("{}: a tensor's storage is no storage", name());
  const auto* type = std::find_if(kStorageTypes.begin(), kStorageTypes.end(),
                                  [&](const StorageType& t) { return t.global == id[1].global(); });
  if (type == kStorageTypes.end()) {
    throw_user("{}: a tensor is in a storage of the kind '{}', which is not read", name(),
               printable(id[1].global()));
  }
  const std::string key(id[2].text("a storage's key"));
  const ZipEntry* entry = archive_.find(prefix_ + "data/" + key);
  if (entry == nullptr)
    throw_user("{}: the storage {} of a tensor is missing", name(), printable(key));
  TorchTensor out{.dtype_text = std::string(type->text),
                  .dtype = type->dtype,
                  .element_bytes = type->bytes,
                  .shape = integers(a[2], "a tensor's shape"),
                  .strides = integers(a[3], "a tensor's strides")};
  const std::int64_t begin = a[1].integer("a tensor's offset");
  const std::int64_t stored = entry->bytes / type->bytes;
  const std::int64_t numel = checked_numel(out.shape, name() + ": a tensor");
  bool fits = out.strides.size() == out.shape.size() && begin >= 0 && begin <= stored &&
              numel <= stored - begin;
  std::int64_t last = begin;
  for (std::size_t i = 0; fits && numel > 0 && i < out.shape.size(); ++i) {
    const std::int64_t steps = out.shape[i] - 1;
    fits = out.strides[i] >= 0 && (steps == 0 || out.strides[i] <= (stored - last) / steps);
    if (fits) last += steps * out.strides[i];
  }
  if (!fits || (numel > 0 && last >= stored)) {
    throw_user(
        "{}: a tensor of shape [{}] and strides [{}] does not lie in its storage of {} elements",
        name(), fmt::join(out.shape, ", "), fmt::join(out.strides, ", "), stored);
  }
  out.offset = entry->offset + begin * type->bytes;
  return out;
}

StoredArray TorchFile::array(const std::string& what, const PickleValue& value) const {
  const std::optional<TorchTensor> found = tensor(value);
  if (!found)
    throw_user("{}: {} is {}; allowed a tensor", name(), printable(what, 200), value.describe());
  if (!found->dtype) {
    throw_user("{}: tensor {} is {}; allowed float32, bfloat16, float16", name(),
               printable(what, 200), found->dtype_text);
  }
  return array_of_pieces(fmt::format("{}: {}", name(), printable(what, 200)), *found->dtype,
                         found->shape,
                         {{.file = archive_.file(),
                           .offset = found->offset,
                           .begin = Extents(found->shape.size(), 0),
                           .extent = found->shape,
                           .strides = found->strides}});
}

ArrayPiece TorchFile::run(const TorchTensor& tensor, FileRange elements, std::int64_t begin) const {
  TH_CHECK(tensor.shape.size() == 1 && elements.offset >= 0 && elements.bytes >= 0 &&
           elements.offset + elements.bytes <= tensor.shape[0]);
  return {.file = archive_.file(),
          .offset = tensor.offset + elements.offset * tensor.strides[0] * tensor.element_bytes,
          .begin = {begin},
          .extent = {elements.bytes},
          .strides = tensor.strides};
}

ArrayPiece TorchFile::rows(const TorchTensor& tensor, std::int64_t row) const {
  TH_CHECK(!tensor.shape.empty() && row >= 0 && row <= tensor.shape[0]);
  return {.file = archive_.file(),
          .offset = tensor.offset + row * tensor.strides[0] * tensor.element_bytes,
          .begin = {},
          .extent = {},
          .strides = tensor.strides};
}

double TorchFile::number(const PickleValue& value, std::string_view what) const {
  const std::optional<TorchTensor> found = tensor(value);
  if (!found) return value.number(what);
  std::array<std::byte, 8> bytes{};
  const bool one = checked_numel(found->shape, what) == 1;
  if (one) {
    archive_.file()->read_at(
        found->offset, std::span(bytes).first(static_cast<std::size_t>(found->element_bytes)));
  }
  const auto as = [&]<typename T>(T number) {
    std::memcpy(&number, bytes.data(), sizeof(T));
    return static_cast<double>(number);
  };
  if (one && found->dtype_text == "float32") return as(float{});
  if (one && found->dtype_text == "float64") return as(double{});
  if (one && found->dtype_text == "int64") return as(std::int64_t{});
  if (one && found->dtype_text == "int32") return as(std::int32_t{});
  throw_user("{}: {} is a tensor of {} and shape [{}]; allowed a number", name(), what,
             found->dtype_text, fmt::join(found->shape, ", "));
}

}  // namespace thimble
