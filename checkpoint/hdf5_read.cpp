#include <algorithm>
#include <array>
#include <limits>
#include <optional>

#include "checkpoint/hdf5_handles.h"
#include "checkpoint/hdf5_layout.h"
#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/file.h"

namespace thimble {
namespace {

using hdf5::Id;

constexpr std::size_t kMaxTextAttribute = 256;

struct LinkNames {
  std::vector<std::string> names;
  /// A link that leaves the file or points by path.
  bool foreign = false;
};

/// Called through C: nothing may be thrown out of it.
herr_t collect_link(hid_t, const char* name, const H5L_info_t* info, void* result) noexcept {
  auto& links = *static_cast<LinkNames*>(result);
  try {
    links.foreign = links.foreign || info->type != H5L_TYPE_HARD;
    links.names.emplace_back(name);
    return 0;
  } catch (...) {
    return -1;
  }
}

/// Reads one file that may be anything.
class LayoutReader {
 public:
  explicit LayoutReader(const std::filesystem::path& path)
      : path_(path.string()), file_bytes_(File::open_read(path).size()) {}

  CheckpointLayout read() {
    const Id access(H5Pcreate(H5P_FILE_ACCESS));
    check(access && H5Pset_file_locking(access.get(), false, true) >= 0 &&
              H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG) >= 0,
          "HDF5 properties");
    file_ = Id(H5Fopen(path_.c_str(), H5F_ACC_RDONLY, access.get()));
    check(static_cast<bool>(file_), "the file is not HDF5");
    CheckpointLayout layout;
    if (text_attribute("format") != "thimble-universal")
      fail("attribute format is not thimble-universal");
    const std::int64_t major = number_attribute(file_.get(), "format_major");
    if (major != 1) fail("format version {} is not known; 1 is", major);
    layout.header = {text_attribute("uuid"), number_attribute(file_.get(), "step"),
                     read_metadata()};
    read_tensors(layout.tensors);
    return layout;
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
    throw_user("{}: not a readable checkpoint file: {}", path_,
               fmt::format(format, std::forward<Args>(args)...));
  }
  void check(bool good, std::string_view what) {
    if (!good) fail("{} ({})", what, hdf5::last_error());
  }

  std::string text_attribute(const char* name) {
    const Id attribute(H5Aopen(file_.get(), name, H5P_DEFAULT));
    check(static_cast<bool>(attribute), fmt::format("attribute {} is missing", name));
    const Id type(H5Aget_type(attribute.get()));
    const Id space(H5Aget_space(attribute.get()));
    const bool is_text = type && space && H5Tget_class(type.get()) == H5T_STRING &&
                         H5Tis_variable_str(type.get()) == 0 &&
                         H5Sget_simple_extent_npoints(space.get()) == 1;
    const std::size_t size = is_text ? H5Tget_size(type.get()) : 0;
    if (size == 0 || size > kMaxTextAttribute) fail("attribute {} is not a short text", name);
    std::string text(size, '\0');
    check(H5Aread(attribute.get(), type.get(), text.data()) >= 0,
          fmt::format("attribute {}", name));
    text.resize(std::min(text.find('\0'), text.size()));
    return text;
  }

  /// Reads an attribute of exactly `values.size()` integers.
  void integer_attribute(hid_t object, const char* name, std::span<std::int64_t> values) {
    const Id attribute(H5Aopen(object, name, H5P_DEFAULT));
    check(static_cast<bool>(attribute), fmt::format("attribute {} is missing", name));
    const Id type(H5Aget_type(attribute.get()));
    const Id space(H5Aget_space(attribute.get()));
    const bool fits =
        type && space && H5Tget_class(type.get()) == H5T_INTEGER &&
        H5Sget_simple_extent_npoints(space.get()) == static_cast<hssize_t>(values.size());
    if (!fits) fail("attribute {} does not hold {} integers", name, values.size());
    check(H5Aread(attribute.get(), H5T_NATIVE_INT64, values.data()) >= 0,
          fmt::format("attribute {}", name));
  }

  std::int64_t number_attribute(hid_t object, const char* name) {
    std::int64_t value = 0;
    integer_attribute(object, name, std::span(&value, 1));
    return value;
  }

  Id open_group(hid_t parent, const std::string& name) {
    Id group(H5Gopen2(parent, name.c_str(), H5P_DEFAULT));
    check(static_cast<bool>(group), fmt::format("group '{}'", printable(name)));
    return group;
  }

  std::vector<std::string> link_names(hid_t group) {
    LinkNames links;
    check(H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect_link, &links) >= 0,
          "a group's links");
    if (links.foreign) fail("it holds a soft or external link; none is allowed");
    return std::move(links.names);
  }

  void check_contiguous(const Id& dataset, const std::string& key) {
    const Id creation(H5Dget_create_plist(dataset.get()));
    check(static_cast<bool>(creation), key);
    if (H5Pget_layout(creation.get()) != H5D_CONTIGUOUS ||
        H5Pget_external_count(creation.get()) != 0) {
      fail("dataset '{}' is not contiguous in this file", key);
    }
  }

  std::vector<std::int64_t> dims_of(const Id& dataset, const std::string& key) {
    const Id space(H5Dget_space(dataset.get()));
    const int rank = space && H5Sget_simple_extent_type(space.get()) != H5S_NULL
                         ? H5Sget_simple_extent_ndims(space.get())
                         : -1;
    std::array<hsize_t, H5S_MAX_RANK> dims{};
    check(rank >= 0 && rank <= H5S_MAX_RANK &&
              H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr) == rank,
          fmt::format("the shape of dataset '{}'", key));
    std::vector<std::int64_t> shape;
    for (int i = 0; i < rank; ++i) {
      const hsize_t size = dims[static_cast<std::size_t>(i)];
      if (size > static_cast<hsize_t>(std::numeric_limits<std::int64_t>::max())) {
        fail("dataset '{}' has a dimension of {}", key, size);
      }
      shape.push_back(static_cast<std::int64_t>(size));
    }
    return shape;
  }

  DType dtype_of(const Id& dataset, const std::string& key) {
    const Id type(H5Dget_type(dataset.get()));
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32, DType::kU16,
                              DType::kU8}) {
      if (type && H5Tequal(type.get(), hdf5::make_type(dtype).get()) > 0) return dtype;
    }
    fail("dataset '{}' has a type other than f32, bf16, f16, i32, u8", key);
  }

  /// The place of a dataset whose type and shape are known, checked against the file.
  void place(const Id& dataset, const std::string& key, PlacedTensor& placed) {
    std::int64_t bytes = dtype_size(placed.tensor.dtype);
    for (const std::int64_t size : placed.tensor.shape) {
      if (__builtin_mul_overflow(bytes, size, &bytes))
        fail("the size of dataset '{}' overflows", key);
    }
    placed.bytes = bytes;
    if (bytes == 0) return;
    const haddr_t offset = H5Dget_offset(dataset.get());
    if (offset == HADDR_UNDEF || bytes > file_bytes_ ||
        offset > static_cast<haddr_t>(file_bytes_ - bytes)) {
      fail("dataset '{}' of {} bytes does not lie in the file's {}", key, bytes, file_bytes_);
    }
    placed.offset = static_cast<std::int64_t>(offset);
  }

  PlacedTensor describe_dataset(const Id& dataset, const std::string& key) {
    check(static_cast<bool>(dataset), fmt::format("dataset '{}'", key));
    check_contiguous(dataset, key);
    PlacedTensor placed;
    placed.tensor.dtype = dtype_of(dataset, key);
    placed.tensor.shape = dims_of(dataset, key);
    place(dataset, key, placed);
    return placed;
  }

  std::string read_metadata() {
    const Id state = open_group(file_.get(), "state");
    if (link_names(state.get()) != std::vector<std::string>{"metadata"})
      fail("/state must hold metadata alone");
    const Id dataset(H5Dopen2(state.get(), "metadata", H5P_DEFAULT));
    const PlacedTensor placed = describe_dataset(dataset, "state/metadata");
    if (placed.tensor.dtype != DType::kU8) fail("state/metadata does not hold bytes");
    std::string text(static_cast<std::size_t>(placed.bytes), '\0');
    File::open_read(path_).read_at(placed.offset, std::as_writable_bytes(std::span(text)));
    return text;
  }

  void read_tensors(std::vector<PlacedTensor>& tensors) {
    const Id params = open_group(file_.get(), "params");
    for (const std::string& name : link_names(params.get())) {
      const Id group = open_group(params.get(), name);
      for (const std::string& slot : link_names(group.get())) {
        const std::string key = printable(name + "/" + slot, 200);
        const Id dataset(H5Dopen2(group.get(), slot.c_str(), H5P_DEFAULT));
        PlacedTensor placed = describe_dataset(dataset, key);
        placed.tensor.name = name;
        placed.tensor.slot = slot;
        read_transposition(dataset, key, placed.tensor);
        tensors.push_back(std::move(placed));
      }
    }
  }

  void read_transposition(const Id& dataset, const std::string& key, CheckpointTensor& tensor) {
    if (H5Aexists(dataset.get(), "transposed") <= 0) return;
    tensor.transposed = number_attribute(dataset.get(), "transposed") != 0;
    if (!tensor.transposed) return;
    std::reverse(tensor.shape.begin(), tensor.shape.end());
    std::vector<std::int64_t> logical(tensor.shape.size());
    integer_attribute(dataset.get(), "logical_shape", logical);
    if (logical != tensor.shape)
      fail("logical_shape of dataset '{}' is not its reversed shape", key);
  }

  std::string path_;
  std::int64_t file_bytes_;
  Id file_;
};

}  // namespace

CheckpointLayout read_hdf5_layout(const std::filesystem::path& path) {
  const hdf5::Session session;
  return LayoutReader(path).read();
}

}  // namespace thimble
