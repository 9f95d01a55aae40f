#include "checkpoint/hdf5_handles.h"

#include "core/base/error.h"

namespace thimble::hdf5 {
namespace {

std::mutex& library_mutex() {
  static std::mutex mutex;
  // Files are closed one by one here; closing the library at exit would only trip over what a
  // damaged file left.
  static const herr_t unregistered = H5dont_atexit();
  static_cast<void>(unregistered);
  return mutex;
}

/// A float of 2 bytes with the given fields.
Id make_float16(std::size_t exponent_bits, std::size_t mantissa_bits, std::size_t bias) {
  Id type(H5Tcopy(H5T_IEEE_F32LE));
  const bool made =
      type && H5Tset_fields(type.get(), 15, mantissa_bits, exponent_bits, 0, mantissa_bits) >= 0 &&
      H5Tset_size(type.get(), 2) >= 0 && H5Tset_ebias(type.get(), bias) >= 0;
  if (!made) throw_system("HDF5: cannot describe a 16-bit float: {}", last_error());
  return type;
}

}  // namespace

Session::Session() : lock_(library_mutex()) {
  H5Eget_auto2(H5E_DEFAULT, &print_, &print_data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

Session::~Session() {
  H5Eset_auto2(H5E_DEFAULT, print_, print_data_);
}

std::string last_error() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned level, const H5E_error2_t* error, void* result) -> herr_t {
        if (level == 0 && error->desc != nullptr) *static_cast<std::string*>(result) = error->desc;
        return 0;
      },
      &text);
  return text.empty() ? "unknown error" : text;
}

Id make_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return Id(H5Tcopy(H5T_IEEE_F32LE));
    case DType::kBF16:
      return make_float16(8, 7, 127);
    case DType::kF16:
      return make_float16(5, 10, 15);
    case DType::kI32:
      return Id(H5Tcopy(H5T_STD_I32LE));
    case DType::kU16:
      return Id(H5Tcopy(H5T_STD_U16LE));
    case DType::kU8:
      return Id(H5Tcopy(H5T_STD_U8LE));
  }
  return {};
}

}  // namespace thimble::hdf5
