#include "offload/native/cufile_driver.hpp"

#include <dlfcn.h>

#include <map>
#include <mutex>

#include "index/native/error.hpp"

namespace kvatlas::cufile {
namespace {

template <class F>
void need(void* library, const std::string& path, const char* name, F*& function) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  if (function == nullptr) throw Error(ErrorKind::store, path + ": expected cuFile with " + name + ", got one without");
}

}  // namespace

std::shared_ptr<const Library> Library::load(const std::string& given) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<const Library>> loaded;
  const std::string path = given.empty() ? "libcufile.so.0" : given;
  const std::lock_guard lock(mutex);
  if (const auto found = loaded.find(path); found != loaded.end()) return found->second;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    throw Error(ErrorKind::store, "cuFile: expected the library " + path + ", got: " + (why == nullptr ? "nothing" : why));
  }
  auto made = std::make_shared<Library>();
  Status (*open)() = nullptr;
  need(library, path, "cuFileDriverOpen", open);
  need(library, path, "cuFileHandleRegister", made->register_file);
  need(library, path, "cuFileHandleDeregister", made->deregister_file);
  need(library, path, "cuFileBufRegister", made->register_buffer);
  need(library, path, "cuFileBufDeregister", made->deregister_buffer);
  need(library, path, "cuFileRead", made->read);
  need(library, path, "cuFileWrite", made->write);
  if (const Status status = open(); status.error != 0) {
    throw Error(ErrorKind::store, path + ": expected cuFileDriverOpen to succeed, got error " + std::to_string(status.error));
  }
  return loaded[path] = made;
}

}  // namespace kvatlas::cufile
