#include <algorithm>
#include <map>

#include "checkpoint/hdf5_handles.h"
#include "checkpoint/hdf5_layout.h"
#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

using hdf5::Id;

constexpr hsize_t kPageBytes = 4096;

/// Creates things inside one new file; every failure names that file.
class LayoutCreator {
 public:
  explicit LayoutCreator(std::string path) : path_(std::move(path)) {}

  std::vector<PlacedTensor> create(const CheckpointHeader& header,
                                   std::span<const CheckpointTensor> tensors) {
    open_file();
    add_text_attribute("format", "thimble-universal");
    add_number_attribute("format_major", 1);
    add_number_attribute("format_minor", 0);
    add_text_attribute("uuid", header.uuid);
    add_number_attribute("step", header.step);
    add_number_attribute("block_bytes", kCheckpointBlockBytes);
    add_metadata(header.metadata);
    std::vector<PlacedTensor> placed = add_tensors(tensors);
    check(H5Fflush(file_.get(), H5F_SCOPE_GLOBAL), "flush");
    check(H5Fclose(file_.release()), "close");
    return placed;
  }

 private:
  void check(herr_t status, std::string_view what) {
    if (status < 0) throw_system("{}: HDF5 cannot {}: {}", path_, what, hdf5::last_error());
  }
  Id checked(hid_t id, std::string_view what) {
    check(id < 0 ? -1 : 0, what);
    return Id(id);
  }

  void open_file() {
    const Id access = checked(H5Pcreate(H5P_FILE_ACCESS), "create properties");
    check(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110), "set the version");
    check(H5Pset_alignment(access.get(), kPageBytes, kPageBytes), "set the alignment");
    check(H5Pset_file_locking(access.get(), false, true), "set the locking");
    check(H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG), "set the closing");
    const Id creation = checked(H5Pcreate(H5P_FILE_CREATE), "create properties");
    // Pages keep metadata out of the gaps between datasets, so writes at the offsets never meet it.
    check(H5Pset_file_space_strategy(creation.get(), H5F_FSPACE_STRATEGY_PAGE, false, 1),
          "set the strategy");
    check(H5Pset_file_space_page_size(creation.get(), kPageBytes), "set the page size");
    file_ = checked(H5Fcreate(path_.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()),
                    "create the file");
  }

  void add_attribute(hid_t object, const char* name, const Id& type, const Id& space,
                     const void* value) {
    const Id attribute =
        checked(H5Acreate2(object, name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
                "create an attribute");
    check(H5Awrite(attribute.get(), type.get(), value), "write an attribute");
  }

  void add_text_attribute(const char* name, const std::string& text) {
    const Id type = checked(H5Tcopy(H5T_C_S1), "copy a type");
    check(H5Tset_size(type.get(), text.size() + 1), "size a type");
    add_attribute(file_.get(), name, type, checked(H5Screate(H5S_SCALAR), "create a space"),
                  text.c_str());
  }

  void add_number_attribute(const char* name, std::int64_t value) {
    const Id type = checked(H5Tcopy(H5T_STD_I64LE), "copy a type");
    add_attribute(file_.get(), name, type, checked(H5Screate(H5S_SCALAR), "create a space"),
                  &value);
  }

  Id make_group(hid_t parent, const char* name) {
    // Without times in it, the same state gives the same file.
    const Id creation = checked(H5Pcreate(H5P_GROUP_CREATE), "create properties");
    check(H5Pset_obj_track_times(creation.get(), false), "set the times");
    return checked(H5Gcreate2(parent, name, H5P_DEFAULT, creation.get(), H5P_DEFAULT),
                   "create a group");
  }

  Id make_dataset(hid_t parent, const char* name, const Id& type,
                  const std::vector<hsize_t>& dims) {
    const Id creation = checked(H5Pcreate(H5P_DATASET_CREATE), "create properties");
    check(H5Pset_layout(creation.get(), H5D_CONTIGUOUS), "set the layout");
    check(H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY), "set the allocation");
    check(H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER), "set the filling");
    check(H5Pset_obj_track_times(creation.get(), false), "set the times");
    const Id space = checked(
        dims.empty() ? H5Screate(H5S_SCALAR)
                     : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
        "create a space");
    return checked(
        H5Dcreate2(parent, name, type.get(), space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT),
        "create a dataset");
  }

  void add_metadata(const std::string& metadata) {
    const Id state = make_group(file_.get(), "state");
    const Id type = hdf5::make_type(DType::kU8);
    const Id dataset = make_dataset(state.get(), "metadata", type, {metadata.size()});
    if (metadata.empty()) return;
    check(H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, metadata.data()),
          "write the metadata");
  }

  std::vector<PlacedTensor> add_tensors(std::span<const CheckpointTensor> tensors) {
    const Id params = make_group(file_.get(), "params");
    std::map<std::string, Id> groups;
    std::vector<PlacedTensor> placed;
    for (const CheckpointTensor& tensor : tensors) {
      Id& group = groups[tensor.name];
      if (!group) group = make_group(params.get(), tensor.name.c_str());
      placed.push_back({tensor, add_tensor(group.get(), tensor), checkpoint_bytes(tensor)});
    }
    return placed;
  }

  /// Returns the offset of the tensor's bytes, 0 if it has none.
  std::int64_t add_tensor(hid_t group, const CheckpointTensor& tensor) {
    std::vector<hsize_t> dims;
    for (const std::int64_t size : tensor.shape) dims.push_back(narrow<hsize_t>(size));
    if (tensor.transposed) std::reverse(dims.begin(), dims.end());
    const Id dataset =
        make_dataset(group, tensor.slot.c_str(), hdf5::make_type(tensor.dtype), dims);
    if (tensor.transposed) {
      const std::uint8_t one = 1;
      add_attribute(dataset.get(), "transposed", hdf5::make_type(DType::kU8),
                    checked(H5Screate(H5S_SCALAR), "create a space"), &one);
      const hsize_t rank = dims.size();
      add_attribute(dataset.get(), "logical_shape", checked(H5Tcopy(H5T_STD_I64LE), "copy a type"),
                    checked(H5Screate_simple(1, &rank, nullptr), "create a space"),
                    tensor.shape.data());
    }
    if (checkpoint_bytes(tensor) == 0) return 0;
    const haddr_t offset = H5Dget_offset(dataset.get());
    check(offset == HADDR_UNDEF ? -1 : 0, "place a dataset");
    return narrow<std::int64_t>(offset);
  }

  std::string path_;
  Id file_;
};

void check_tensor(const CheckpointTensor& tensor) {
  for (const std::string& part : {tensor.name, tensor.slot}) {
    TH_CHECK(is_plain_file_name(part), "'{}' cannot name a dataset", part);
  }
  TH_CHECK(tensor.shape.size() <= H5S_MAX_RANK && (!tensor.transposed || !tensor.shape.empty()));
  TH_CHECK(std::all_of(tensor.shape.begin(), tensor.shape.end(),
                       [](std::int64_t size) { return size >= 0; }));
}

}  // namespace

std::vector<PlacedTensor> create_hdf5_layout(const std::filesystem::path& path,
                                             const CheckpointHeader& header,
                                             std::span<const CheckpointTensor> tensors) {
  for (const CheckpointTensor& tensor : tensors) check_tensor(tensor);
  const hdf5::Session session;
  return LayoutCreator(path.string()).create(header, tensors);
}

}  // namespace thimble
