// Small wrappers of the HDF5 C library. Included only by the files that call it.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <string>

#include "core/base/dtype.h"
#include "core/base/unique_handle.h"

namespace thimble::hdf5 {

struct CloseId {
  void operator()(hid_t id) const noexcept { H5Idec_ref(id); }
};
/// Any HDF5 identifier: the library itself knows what to close.
using Id = UniqueHandle<hid_t, CloseId, hid_t{-1}>;

/// Held around every use of the library: it is not thread-safe everywhere, and its error printing
/// is switched off here.
class Session {
 public:
  Session();
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

 private:
  std::unique_lock<std::mutex> lock_;
  H5E_auto2_t print_ = nullptr;
  void* print_data_ = nullptr;
};

/// The innermost message of the library's last failure.
std::string last_error();

/// The file type of a dtype.
Id make_type(DType dtype);

}  // namespace thimble::hdf5
