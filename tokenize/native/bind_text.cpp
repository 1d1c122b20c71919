#include "tokenize/native/bind_text.hpp"

#include <utility>

#include "index/native/error.hpp"
#include "tokenize/native/utf8.hpp"

namespace nb = nanobind;

namespace kvatlas {

Utf8Text::Utf8Text(nb::handle text, std::string name) : name_(std::move(name)) {
  PyObject* object = text.ptr();
  if (!PyUnicode_Check(object))
    throw Error(ErrorKind::input, name_ + ": expected a str, got " + Py_TYPE(object)->tp_name);
#if PY_VERSION_HEX < 0x030C0000
  if (PyUnicode_READY(object) != 0) throw nb::python_error();
#endif
  text_ = nb::borrow(text);
  characters_ = PyUnicode_DATA(object);
  n_characters_ = static_cast<size_t>(PyUnicode_GET_LENGTH(object));
  width_ = static_cast<int>(PyUnicode_KIND(object));
  is_ascii_ = PyUnicode_IS_ASCII(object) != 0;
}

void Utf8Text::encode() {
  if (is_ascii_) {
    utf8_ = {static_cast<const char*>(characters_), n_characters_};
    return;
  }
  const size_t size = utf8_bytes(characters_, n_characters_, width_, name_.c_str());
  encoded_ = std::make_unique_for_overwrite<char[]>(size);
  write_utf8(characters_, n_characters_, width_, encoded_.get());
  utf8_ = {encoded_.get(), size};
}

nb::object Utf8Text::slice(size_t begin, size_t end) const {
  PyObject* part = PyUnicode_DecodeUTF8(utf8_.data() + begin, static_cast<Py_ssize_t>(end - begin), nullptr);
  if (part == nullptr) throw nb::python_error();
  return nb::steal(part);
}

}  // namespace kvatlas
